/** Pieces of OpenAPI descriptions that the resources share; `openapi.ts` defines what they name. */

interface ResponseDetail {
  readonly description: string
  readonly content?: { readonly [type: string]: { readonly schema: object } }
}

export type SchemaName =
  | 'App'
  | 'AppList'
  | 'Fn'
  | 'FnList'
  | 'Trigger'
  | 'TriggerList'
  | 'Error'
  | 'Bundle'
  | 'Registry'
  | 'RegistryList'
  | 'Images'
  | 'Node'
  | 'NodeList'
  | 'Leader'
  | 'PendingJoin'
  | 'PendingJoinList'
  | 'Joined'
  | 'JoinToken'
  | 'Leaving'
  | 'Status'

export function json(name: SchemaName, description: string): ResponseDetail {
  const schema = { $ref: `#/components/schemas/${name}` }
  return { description, content: { 'application/json': { schema } } }
}

const errorTexts: Readonly<Record<number, string>> = {
  400: 'The request is invalid; `field` names the part at fault',
  401: 'A valid bearer token is required',
  403: 'Forbidden',
  404: 'Not found',
  409: 'Conflicts with what exists',
  413: 'Too large',
  503: 'Not just now; the message says why, `Retry-After` when to ask again',
}

/** The responses of an admin operation: its success, then errors by status. 401 is always there. */
export function responses(
  success: { readonly [status: number]: ResponseDetail },
  ...errorStatuses: readonly number[]
): Record<string, ResponseDetail> {
  const errors = [401, ...errorStatuses].map(
    status => [String(status), json('Error', errorTexts[status] ?? 'Error')] as const,
  )
  return { ...success, ...Object.fromEntries(errors) }
}

export const noContent = { 204: { description: 'Deleted' } } as const

/** The token that operations of the admin API need, as `openapi.ts` names it. */
export const adminSecurity = [{ adminToken: [] }]
