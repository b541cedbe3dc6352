/**
 * What the bridge answers in place of a function: which error, with which words. The http-stream
 * contract has three statuses; this carries the rest of the table of errors over the bridge's
 * socket. Only where the bridge is behind the socket may it be believed.
 */
import { type ErrorCode, FndError } from '../../errors.ts'

const headerName = 'fnd-refusal'
/** The words of a function may be long; a head has its limit. */
const textLengthMax = 500

interface Words {
  readonly code: ErrorCode
  readonly message: string
}

/**
 * The whole reply. `isFit`: the container may take another call; the status says so to the runner,
 * as it would for an FDK.
 */
export function refusalReply(error: FndError, isFit: boolean): Buffer {
  const message = error.message.slice(0, textLengthMax).toWellFormed()
  const words: Words = { code: error.code, message }
  const text = encodeURIComponent(JSON.stringify(words))
  const status = isFit ? '502 Bad Gateway' : '500 Internal Server Error'
  return Buffer.from(`HTTP/1.1 ${status}\r\n${headerName}: ${text}\r\ncontent-length: 0\r\n\r\n`)
}

/** The error that a reply of the bridge stands for, or undefined. Headers alternate. */
export function refusalFrom(headers: readonly string[]): FndError | undefined {
  const at = headers.indexOf(headerName)
  if (at === -1) return undefined
  const { code, message } = JSON.parse(decodeURIComponent(headers[at + 1] ?? '')) as Words
  return new FndError(code, { message })
}

/** An answer that is none, in Fn's words. */
export function invalidAnswer(format: 'http' | 'json', why: string): FndError {
  const message = `invalid ${format} response from function err: ${why}`
  return new FndError('function-response-invalid', { message })
}
