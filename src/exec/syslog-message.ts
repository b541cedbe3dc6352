/**
 * A line that a function wrote, as a syslog message of RFC 5424. Pure.
 *
 * `<14>1 2026-01-31T10:00:00.000Z host fn instance call [fnd@32473 app_id="…" … call_id="…"] text`
 *
 * Facility user, as Fn has it; severity informational for stdout and error for stderr, as Docker
 * has it. The text is handed on byte for byte: RFC 5424 allows any octets where no BOM precedes.
 */
import type { Stream } from './call-log.ts'

/** What all messages of an instance share. */
export interface SyslogSource {
  /** Of the node; '' where it has none. */
  readonly hostname: string
  readonly appId: string
  readonly appName: string
  readonly fnId: string
  readonly fnName: string
  readonly instanceId: string
}

export interface SyslogLine {
  /** '' for output before the instance's first call. */
  readonly callId: string
  readonly stream: Stream
  readonly timeMs: number
  readonly bytes: Uint8Array
}

/** The parts of a message that do not change from line to line. */
export interface SyslogHead {
  /** From the host to the instance. */
  readonly before: string
  /** The structured data, still open for the call. */
  readonly data: string
}

/**
 * `octets`: its length precedes each message (RFC 6587 §3.4.1, RFC 5425). `datagram`: each message
 * is one, of at most `datagramBytesMax`; a longer line becomes several messages.
 */
export type SyslogFraming = 'octets' | 'datagram'

/**
 * Receivers have to take 480 bytes and should take 2048 (RFC 5424 §6.1); common ones take 8 KiB,
 * and what is more than the MTU is sent in fragments.
 */
export const datagramBytesMax = 8192

/** RFC 5612 has this enterprise number for examples; fnd has none of its own. */
const dataId = 'fnd@32473'
const userFacility = 1
const severities = { stdout: 6, stderr: 3 } as const
const hostnameMax = 255
const appNameMax = 48
const procIdMax = 128
const msgIdMax = 32
/** Heads are shorter than this; a piece of a line is never smaller than what is left. */
const pieceBytesMin = 1024

const encoder = new TextEncoder()

export function syslogHead(source: SyslogSource): SyslogHead {
  const { hostname, appId, appName, fnId, fnName, instanceId } = source
  const before = [
    field(hostname, hostnameMax),
    field(fnName, appNameMax),
    field(instanceId, procIdMax),
  ].join(' ')
  const params = { app_id: appId, fn_id: fnId, app: appName, fn: fnName }
  const texts = Object.entries(params).map(([name, value]) => param(name, value))
  return { before, data: `[${dataId}${texts.join('')}` }
}

/** One message, or several where the line is longer than a datagram may be. */
export function syslogMessages(
  head: SyslogHead,
  line: SyslogLine,
  framing: SyslogFraming,
): Uint8Array[] {
  const { callId, stream, timeMs, bytes } = line
  const priority = userFacility * 8 + severities[stream]
  const call = callId === '' ? '' : param('call_id', callId)
  const time = new Date(timeMs).toISOString()
  const msgId = field(callId, msgIdMax)
  const text = `<${priority}>1 ${time} ${head.before} ${msgId} ${head.data}${call}]`
  const prefix = encoder.encode(bytes.length === 0 ? text : `${text} `)
  if (framing === 'octets') {
    const length = encoder.encode(`${prefix.length + bytes.length} `)
    return [joined([length, prefix, bytes])]
  }
  const pieceMax = Math.max(datagramBytesMax - prefix.length, pieceBytesMin)
  return pieces(bytes, pieceMax).map(piece => joined([prefix, piece]))
}

export function joined(parts: readonly Uint8Array[]): Uint8Array {
  let length = 0
  for (const part of parts) length += part.length
  const whole = new Uint8Array(length)
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}

/** Cuts between characters, and anywhere in what is not UTF-8. Nothing gives one empty piece. */
function pieces(bytes: Uint8Array, bytesMax: number): Uint8Array[] {
  const found: Uint8Array[] = []
  let start = 0
  while (bytes.length - start > bytesMax) {
    let end = start + bytesMax
    while (end > start + bytesMax - 3 && isInsideCharacter(bytes[end])) end -= 1
    if (isInsideCharacter(bytes[end])) end = start + bytesMax
    found.push(bytes.subarray(start, end))
    start = end
  }
  found.push(bytes.subarray(start))
  return found
}

function isInsideCharacter(byte: number | undefined): boolean {
  return byte !== undefined && (byte & 0xc0) === 0x80
}

/** PRINTUSASCII without spaces (§6): other characters become `_`; nothing becomes the NILVALUE. */
function field(text: string, max: number): string {
  const printable = [...text].map(char => (/^[!-~]$/.test(char) ? char : '_')).join('')
  return printable === '' ? '-' : printable.slice(0, max)
}

/** §6.3.3: quotes, backslashes and closing brackets are escaped. The value is UTF-8. */
function param(name: string, value: string): string {
  return ` ${name}="${value.toWellFormed().replace(/["\\\]]/g, '\\$&')}"`
}
