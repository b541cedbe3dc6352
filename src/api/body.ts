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

/** The whole body as text. Stops reading at the limit, whatever Content-Length said. */
export async function readText(request: Request, bytesMax: number): Promise<string> {
  const declared = request.headers.get('content-length')
  if (declared !== null && Number(declared) > bytesMax) throw tooLarge(declared, bytesMax)
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  let text = ''
  let bytes = 0
  for await (const chunk of bodyChunks(request)) {
    bytes += chunk.byteLength
    if (bytes > bytesMax) throw tooLarge(bytes, bytesMax)
    text += decoder.decode(chunk, { stream: true })
  }
  return text + decoder.decode()
}

/**
 * The first JSON object of the body, with Go's reading of `null`: the zero value of its field,
 * which is absent here, and `''` among the strings of `config`.
 */
export async function readObject(
  request: Request,
  bytesMax: number,
): Promise<Record<string, unknown>> {
  const object = parseFirstObject(await readText(request, bytesMax))
  if (object === undefined) throw new FndError('invalid-json')
  for (const key of Object.keys(object)) if (object[key] === null) delete object[key]
  const { config } = object
  if (typeof config === 'object' && config !== null && !Array.isArray(config)) {
    object.config = Object.fromEntries(
      Object.entries(config).map(([key, value]) => [key, value ?? '']),
    )
  }
  for (const field of ['created_at', 'updated_at']) {
    const time = object[field]
    if (typeof time === 'string' && parseTime(time) === undefined) {
      throw new FndError('invalid-json', { field })
    }
  }
  return object
}
