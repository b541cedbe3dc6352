/** Fn's paging: a cursor is the last name of the page before, as unpadded base64url. */
import { FndError } from '../../errors.ts'
import type { Page } from '../../store/state.ts'

const limitDefault = 30
const limitMax = 100

function limitFrom(text: string | undefined): number {
  if (text === undefined || !/^[+-]?\d{1,18}$/.test(text)) return limitDefault
  const limit = Number(text)
  return limit <= 0 ? limitDefault : Math.min(limit, limitMax)
}

function nameFrom(cursor: string): string {
  if (!/^[A-Za-z0-9_-]*$/.test(cursor) || cursor.length % 4 === 1) {
    throw new FndError('invalid-cursor', { field: 'cursor' })
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(Buffer.from(cursor, 'base64url'))
  } catch (cause) {
    throw new FndError('invalid-cursor', { field: 'cursor', cause })
  }
}

export function pageFrom(query: { readonly cursor?: string; readonly per_page?: string }): Page {
  return { after: nameFrom(query.cursor ?? ''), limit: limitFrom(query.per_page) }
}

/** The answer of a list. A full page always has a cursor, so the last page may be empty. */
export function listBody<T extends { readonly name: string }>(
  items: readonly T[],
  page: Page,
  toWire: (item: T) => object,
): object {
  const last = items.length < page.limit ? undefined : items.at(-1)
  return {
    ...(last === undefined ? {} : { next_cursor: Buffer.from(last.name).toString('base64url') }),
    items: items.map(toWire),
  }
}
