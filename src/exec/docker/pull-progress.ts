/** How far a pull is, from the messages that the daemon streams. Pure. */

export interface PullMessage {
  readonly id?: string
  readonly status?: string
  readonly error?: string
  readonly errorDetail?: { readonly message?: string }
  readonly progressDetail?: { readonly current?: number; readonly total?: number }
}

export interface Progress {
  readonly layers: number
  readonly layersDone: number
  /** Of the layers whose size is known yet. */
  readonly bytes: number
  readonly bytesDone: number
}

/** A message is a line of JSON; this bounds what is kept of one without an end. */
const lineLengthMax = 1024 * 1024

/** Puts the daemon's messages together from what arrives. */
export class MessageLines {
  readonly #decoder = new TextDecoder()
  #rest = ''

  push(chunk: Uint8Array): readonly PullMessage[] {
    const lines = (this.#rest + this.#decoder.decode(chunk, { stream: true })).split('\n')
    this.#rest = (lines.pop() ?? '').slice(0, lineLengthMax)
    return lines.map(messageFrom).filter(message => message !== undefined)
  }
}

function messageFrom(line: string): PullMessage | undefined {
  try {
    const message: unknown = JSON.parse(line)
    return typeof message === 'object' && message !== null ? message : undefined
  } catch (cause) {
    // Blank lines, and what a daemon says besides.
    if (!(cause instanceof SyntaxError)) throw cause
    return undefined
  }
}

/** What went wrong, if the message says that something did. */
export function faultOf(message: PullMessage): string | undefined {
  return message.errorDetail?.message ?? message.error
}

interface Layer {
  bytes: number
  bytesDone: number
  isDone: boolean
}

const layerStates = new Set([
  'Pulling fs layer',
  'Waiting',
  'Downloading',
  'Verifying Checksum',
  'Download complete',
  'Extracting',
  'Pull complete',
  'Already exists',
])

export class PullProgress {
  readonly #layers = new Map<string, Layer>()

  see(message: PullMessage): void {
    const { id, status = '', progressDetail } = message
    if (id === undefined || !layerStates.has(status)) return
    const layer = this.#layers.get(id) ?? { bytes: 0, bytesDone: 0, isDone: false }
    this.#layers.set(id, layer)
    // Extraction counts from the start again; what people wait for is the network.
    if (status === 'Downloading' && progressDetail?.current !== undefined) {
      // Behind some proxies a registry does not say how long its answer is.
      layer.bytes = progressDetail.total ?? 0
      layer.bytesDone = progressDetail.current
    }
    if (/^(Verifying|Download complete|Extracting|Pull complete|Already)/.test(status)) {
      layer.bytes = Math.max(layer.bytes, layer.bytesDone)
      layer.bytesDone = layer.bytes
      layer.isDone = status === 'Pull complete' || status === 'Already exists'
    }
  }

  get now(): Progress {
    const layers = [...this.#layers.values()]
    return {
      layers: layers.length,
      layersDone: layers.filter(layer => layer.isDone).length,
      bytes: layers.reduce((sum, layer) => sum + layer.bytes, 0),
      bytesDone: layers.reduce((sum, layer) => sum + layer.bytesDone, 0),
    }
  }
}

/** `34 of 120 MB`, or `34 MB so far`; where the registry has sent nothing, that. */
export function progressText({ layers, bytes, bytesDone }: Progress): string {
  const largest = Math.max(bytes, bytesDone)
  if (largest === 0) return layers === 0 ? 'the registry has not answered' : 'no bytes yet'
  const [unit, size] = largest < 1e6 ? (['kB', 1e3] as const) : (['MB', 1e6] as const)
  const done = Math.floor(bytesDone / size)
  return bytesDone > bytes
    ? `${done} ${unit} so far`
    : `${done} of ${Math.ceil(bytes / size)} ${unit}`
}
