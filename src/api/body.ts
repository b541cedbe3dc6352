/** Reads the body of an admin request: bounded, and as Fn reads JSON. */
import { FndError } from '../errors.ts'
import { parseFirstObject } from './json-text.ts'
import { parseTime } from './v2/json.ts'

function tooLarge(bytes: number | string, bytesMax: number): FndError {
  return new FndError('request-too-large', {
    message: `Content-Length too large for this server, ${bytes} > max ${bytesMax}`,
  })
}

/** The body as it arrives. A caller that goes away is not our fault. */
export async function* bodyChunks(request: Request): AsyncGenerator<Uint8Array> {
  if (request.body === null) return
  const reader = request.body.getReader()
  for (;;) {
    let part: Awaited<ReturnType<typeof reader.read>>
    try {
      part = await reader.read()
    } catch (cause) {
      throw new FndError('client-gone', { cause })
    }
    if (part.done) return
    yield part.value
  }
}

/** A byte order mark is no JSON, to Go. */
const asSent = { ignoreBOM: true }
/** For texts that are there as a whole. */
const wholeDecoder = new TextDecoder('utf-8', asSent)

/**
 * The whole body as text. Stops reading at the limit, whatever Content-Length said. Rejects with
 * `FndError` `request-too-large` or `client-gone`.
 */
function readText(request: Request, bytesMax: number): Promise<string> {
  const declared = request.headers.get('content-length')
  if (declared !== null && Number(declared) > bytesMax) {
    return Promise.reject(tooLarge(declared, bytesMax))
  }
  if (declared === null || request.headers.has('transfer-encoding')) {
    return readChunks(request, bytesMax)
  }
  // The server's parser lets no more through than was declared; a stream for each small body would
  // take a tenth of what a change costs.
  return request.bytes().then(
    whole => {
      if (whole.byteLength > bytesMax) throw tooLarge(whole.byteLength, bytesMax)
      return wholeDecoder.decode(whole)
    },
    cause => {
      throw new FndError('client-gone', { cause })
    },
  )
}

async function readChunks(request: Request, bytesMax: number): Promise<string> {
  const decoder = new TextDecoder('utf-8', asSent)
  let text = ''
  let bytes = 0
  for await (const chunk of bodyChunks(request)) {
    bytes += chunk.byteLength
    if (bytes > bytesMax) throw tooLarge(bytes, bytesMax)
    text += decoder.decode(chunk, { stream: true })
  }
  return text + decoder.decode()
}

type JsonObject = Record<string, unknown>

function isPlainObject(value: unknown): value is JsonObject {
  return (
    typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype
  )
}

/**
 * Elysia's report of a wrong type turns the value into text, and an object from JSON can make that
 * throw: with its own `toString`, or as a number kept as text. So where no object belongs, `true`
 * takes its place: a wrong type for every field too, but a harmless one.
 */
function scalarOf(value: unknown): unknown {
  return typeof value === 'object' && value !== null ? true : value
}

/** The map itself when there is nothing to change, as almost always. */
function configOf(map: JsonObject): JsonObject {
  const isTame = Object.values(map).every(each => typeof each !== 'object')
  if (isTame) return map
  // Go reads null as the zero value, here of a string.
  const entries = Object.entries(map).map(([key, each]) => [key, scalarOf(each ?? '')])
  return Object.fromEntries(entries)
}

function fieldOf(name: string, value: unknown): unknown {
  if (!isPlainObject(value)) return scalarOf(value)
  if (name === 'annotations') return value
  return name === 'config' ? configOf(value) : true
}

/** The first JSON object of the body. A null field is an absent one, as in Go. */
export async function readObject(request: Request, bytesMax: number): Promise<JsonObject> {
  const object = parseFirstObject(await readText(request, bytesMax))
  if (object === undefined) throw new FndError('invalid-json')
  const fields: [string, unknown][] = []
  for (const [name, value] of Object.entries(object)) {
    if (value === null) continue
    const isTime = name === 'created_at' || name === 'updated_at'
    if (isTime && typeof value === 'string' && parseTime(value) === undefined) {
      throw new FndError('invalid-json', { field: name })
    }
    fields.push([name, fieldOf(name, value)])
  }
  return Object.fromEntries(fields)
}
