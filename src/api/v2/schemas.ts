/** Shapes on Fn's wire that several resources share. Unknown fields are allowed, and ignored. */
import { t } from 'elysia'

export function wireObject<T extends Parameters<typeof t.Object>[0]>(
  properties: T,
  description: string,
) {
  return t.Object(properties, { additionalProperties: true, description })
}

/** A path parameter. Checked by `idFrom`, because a bad id is an unknown id: 404, not 400. */
export function idParameter(description: string) {
  return t.Unknown({ type: 'string', description })
}

/** Not `t.Integer`, which also takes digits in a string. */
export function integer(options: { readonly minimum?: number; readonly description: string }) {
  return t.Number({ multipleOf: 1, ...options })
}

export const configSchema = t.Record(t.String(), t.String(), {
  description: 'Environment of the function. In an update, an empty value deletes its key.',
})

export const annotationsSchema = t.Record(t.String(), t.Unknown(), {
  description:
    'Free metadata: at most 100 keys of 1 to 128 printable ASCII characters, values of at most ' +
    '512 bytes of JSON. In an update, `""` or `null` deletes a key. `fnd.io/*` keys are settings.',
})

export const idSchema = t.String({ description: 'Made by the server.' })

export const createdAtSchema = t.String({
  description: 'RFC 3339, UTC. `0001-01-01T00:00:00.000Z` means absent.',
})

export const updatedAtSchema = t.String({ description: 'RFC 3339, UTC.' })

export const pageQuery = {
  cursor: t.Optional(t.String({ description: '`next_cursor` of the page before.' })),
  per_page: t.Optional(t.String({ description: 'Items per page: default 30, at most 100.' })),
}

export const nameQuery = t.Optional(t.String({ description: 'Exact name to look for.' }))
