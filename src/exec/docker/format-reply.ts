/** What a function of an older format answered, as a reply of the http-stream contract. */
import { isHopByHop } from '../../http/headers.ts'
import type { FormatCall } from './format-call.ts'

export interface FnAnswer {
  readonly status: number
  /** Name and value alternate; values are bytes as latin1 characters. */
  readonly headers: readonly string[]
}

/** The value of a header, '' when there is none. */
export function headerOf(headers: readonly string[], lowerName: string): string {
  for (let i = 0; i < headers.length; i += 2) {
    if (headers[i]?.toLowerCase() === lowerName) return headers[i + 1] ?? ''
  }
  return ''
}

/**
 * The head of a reply. Callers of triggers get the function's status and headers, so these are
 * named for them; callers of `/invoke` get them as they are, with the status beside. `answer` is
 * null where the function cannot say either. `type` is used when the function gave none.
 */
export function replyHead(
  call: FormatCall,
  answer: FnAnswer | null,
  type: string,
  length: number | 'chunked',
): Buffer {
  let head = 'HTTP/1.1 200 OK\r\n'
  const ownType = answer === null ? '' : headerOf(answer.headers, 'content-type')
  const anyType = ownType === '' ? type : ownType
  if (anyType !== '') head += `content-type: ${anyType}\r\n`
  if (answer !== null) {
    head += `fn-http-status: ${answer.status}\r\n`
    const prefix = call.isTrigger ? 'Fn-Http-H-' : ''
    for (let i = 0; i < answer.headers.length; i += 2) {
      const name = answer.headers[i] ?? ''
      const lower = name.toLowerCase()
      if (isHopByHop(lower) || lower === 'content-type' || lower === 'content-length') continue
      if (lower === 'fn-http-status') continue
      head += `${prefix}${name}: ${answer.headers[i + 1]}\r\n`
    }
  }
  const framing = length === 'chunked' ? 'transfer-encoding: chunked' : `content-length: ${length}`
  return Buffer.from(`${head}${framing}\r\n\r\n`, 'latin1')
}
