/**
 * Calls over stdin and stdout of one container, in the formats `http` and `json`. Nothing in them
 * says which call an answer is for, so whatever is out of step ends the container.
 */
import { FndError } from '../../errors.ts'
import { chunkFrom } from '../../http/wire.ts'
import type { FnSpec } from '../driver.ts'
import type { Stdio, TalkLimits } from './bridge.ts'
import type { ServedCall } from './bridge-socket.ts'
import { type FormatCall, ironPayload, readCall } from './format-call.ts'
import { AnswerBodyReader, AnswerHeadReader, isBlank, requestHead } from './format-http.ts'
import {
  answerFrom,
  jsonAnswerBytesMax,
  jsonBodyBytesMax,
  ObjectScanner,
  requestText,
} from './format-json.ts'
import { headerOf, replyHead } from './format-reply.ts'
import { invalidAnswer } from './refusal.ts'
import { sniffedType } from './sniff.ts'
import { ContainerGone, fail, ReplyWriter } from './talk.ts'

/** A body of unknown length is read up to this size, to tell its length: old kits want it. */
const measuredBytesMax = 1024 * 1024

export class HotTalk {
  readonly broken: Promise<string>
  readonly #spec: FnSpec
  readonly #limits: TalkLimits
  readonly #stdin: Stdio['stdin']
  readonly #stdout: ReadableStreamDefaultReader<Uint8Array>
  readonly #reportBroken: (reason: string) => void
  #state: 'idle' | 'busy' | 'broken' = 'idle'
  /** Whether bytes of the call in progress may have gone to the container. */
  #isTouched = false
  /** The read that looks for output while there is no call; a call takes it over. */
  #pending: Promise<Uint8Array | undefined> | null = null

  constructor(spec: FnSpec, limits: TalkLimits, stdio: Stdio) {
    this.#spec = spec
    this.#limits = limits
    this.#stdin = stdio.stdin
    this.#stdout = stdio.stdout.getReader() as ReadableStreamDefaultReader<Uint8Array>
    const { promise, resolve } = Promise.withResolvers<string>()
    this.broken = promise
    this.#reportBroken = resolve
    this.#watchIdle()
  }

  async serve(served: ServedCall): Promise<void> {
    if (this.#state !== 'idle') return served.terminate()
    this.#state = 'busy'
    const onGone = () => this.#break('the caller left in the middle of a call')
    served.gone.addEventListener('abort', onGone, { once: true })
    try {
      const call = readCall(served.head, this.#spec.fnId)
      const talk = this.#spec.format === 'json' ? this.#json : this.#http
      const rest = await talk.call(this, served, call)
      served.gone.removeEventListener('abort', onGone)
      // First, so that no call is let in behind an answer that was not the last word.
      if (!isBlank(rest)) this.#break('it wrote more than its answer')
      this.#settle()
      served.finish()
    } catch (cause) {
      served.gone.removeEventListener('abort', onGone)
      const isFit = cause instanceof FndError && !this.#isTouched && this.#state === 'busy'
      if (!isFit) this.#break(cause instanceof Error ? cause.message : String(cause))
      this.#settle()
      await fail(served, cause, isFit)
    }
  }

  async close(): Promise<void> {
    this.#break('it is being closed')
    // The stream may have failed already; either way nobody reads it any more.
    await this.#stdout.cancel().catch(() => undefined)
  }

  #settle(): void {
    if (this.#state !== 'busy') return
    this.#state = 'idle'
    this.#isTouched = false
    this.#watchIdle()
  }

  #break(reason: string): void {
    this.#state = 'broken'
    this.#reportBroken(reason)
  }

  /** Output while no call has gone out would be taken for the answer to the next one. */
  #watchIdle(): void {
    const read = this.#pending ?? this.#readStdout()
    this.#pending = read
    void read.then(piece => {
      if (this.#pending !== read || this.#isTouched || this.#state === 'broken') return
      this.#pending = null
      if (piece === undefined) this.#break('its output ended')
      else if (!isBlank(piece)) this.#break('it wrote to stdout while there was no call')
      else this.#watchIdle()
    })
  }

  async #readStdout(): Promise<Uint8Array | undefined> {
    try {
      return (await this.#stdout.read()).value
    } catch (cause) {
      // However the stream ended, it is the end of the container.
      if (!(cause instanceof Error)) throw cause
      return undefined
    }
  }

  /** A piece of output; undefined at its end. */
  #next(): Promise<Uint8Array | undefined> {
    const read = this.#pending ?? this.#readStdout()
    this.#pending = null
    return read
  }

  async #write(bytes: Uint8Array): Promise<void> {
    if (this.#state === 'broken') throw new ContainerGone('it is unfit')
    this.#isTouched = true
    try {
      await this.#stdin.write(bytes)
    } catch (cause) {
      if (!(cause instanceof Error)) throw cause
      throw new ContainerGone('it does not read its input', { cause })
    }
  }

  async #json(served: ServedCall, call: FormatCall): Promise<Uint8Array> {
    const body = await wholeBody(served, jsonBodyBytesMax)
    const sending = this.#write(Buffer.from(requestText(call, body)))
    const [{ text, rest }] = await Promise.all([this.#object(), sending])
    const answer = answerFrom(text)
    if ('fault' in answer) throw invalidAnswer('json', answer.fault)
    const head = replyHead(call, answer, sniffedType(answer.body), answer.body.length)
    await new ReplyWriter(served, answer.body.length).write(head, answer.body, true)
    return rest
  }

  async #object(): Promise<{ readonly text: string; readonly rest: Uint8Array }> {
    const scanner = new ObjectScanner(jsonAnswerBytesMax)
    for (;;) {
      const piece = await this.#next()
      if (piece === undefined) throw new ContainerGone('its output ended in an answer')
      const step = scanner.feed(piece)
      if (step === 'more') continue
      if (step === 'too-large') throw new FndError('function-body-too-large')
      if ('fault' in step) throw invalidAnswer('json', step.fault)
      return step
    }
  }

  async #http(served: ServedCall, call: FormatCall): Promise<Uint8Array> {
    const input = await this.#inputOf(served, call)
    const upload = this.#upload(served, call, input)
    // Whoever reads the answer to its end hears of its failure; until then nobody has to.
    upload.catch(() => undefined)
    return this.#download(served, call, upload)
  }

  async #inputOf(served: ServedCall, call: FormatCall): Promise<Input> {
    const isIron = this.#spec.dialect === 'iron'
    const payload = isIron ? ironPayload(call) : undefined
    if (payload !== undefined) return { first: payload, length: payload.length, isWhole: true }
    if (served.length !== undefined) {
      return { first: nothing, length: served.length, isWhole: served.length === 0 }
    }
    return measured(served, isIron)
  }

  async #upload(served: ServedCall, call: FormatCall, input: Input): Promise<void> {
    const { first, length, isWhole } = input
    const isChunked = length === undefined
    const framed = (piece: Uint8Array) => (isChunked && piece.length > 0 ? chunkFrom(piece) : piece)
    await this.#write(Buffer.concat([requestHead(call, this.#spec, length), framed(first)]))
    if (!isWhole) {
      for (;;) {
        const piece = await served.read()
        if (piece === undefined) break
        await this.#write(framed(piece))
      }
    }
    if (isChunked) await this.#write(Buffer.from('0\r\n\r\n'))
  }

  /** The end of an answer is held back until the request is out: then the next call may come. */
  async #download(
    served: ServedCall,
    call: FormatCall,
    upload: Promise<void>,
  ): Promise<Uint8Array> {
    const { head: answer, rest: afterHead } = await this.#answerHead()
    const body = new AnswerBodyReader(answer.framing)
    const length = typeof answer.framing === 'number' ? answer.framing : 'chunked'
    const writer = new ReplyWriter(served, length)
    const isIron = this.#spec.dialect === 'iron'
    const isTyped = !isIron && headerOf(answer.headers, 'content-type') !== ''
    const headFor = (type: string) => replyHead(call, isIron ? null : answer, type, length)
    let head: Buffer | null = null
    let isHeadOut = false
    let piece: Uint8Array | undefined = afterHead
    for (;;) {
      const step = body.feed(piece ?? nothing)
      if (step === 'bad') throw invalidAnswer('http', 'malformed chunked encoding')
      const isEnd = step.isEnd || piece === undefined
      if (isEnd) await upload
      if (!isHeadOut && (isTyped || step.body.length > 0 || isEnd)) {
        head = headFor(isTyped ? '' : sniffedType(step.body))
        isHeadOut = true
      }
      await writer.write(head, step.body, isEnd)
      head = null
      if (isEnd) return step.rest
      piece = await this.#next()
      if (piece === undefined && !body.isEndedByClose) {
        throw new ContainerGone('its output ended in an answer')
      }
    }
  }

  async #answerHead() {
    const reader = new AnswerHeadReader(this.#limits.headBytesMax)
    for (;;) {
      const piece = await this.#next()
      if (piece === undefined) throw new ContainerGone('its output ended before an answer')
      const step = reader.feed(piece)
      if (step === 'more') continue
      if (step === 'too-large') throw new FndError('function-headers-too-large')
      if ('fault' in step) throw invalidAnswer('http', step.fault)
      return step
    }
  }
}

/** A request body as it goes to a function: what was read of it, and its length if known. */
interface Input {
  readonly first: Uint8Array
  readonly length: number | undefined
  /** Whether `first` is all of it. */
  readonly isWhole: boolean
}

const nothing = new Uint8Array(0)

/** Reads a body of unknown length, to its end or to the bound, over which `mustEnd` refuses it. */
async function measured(served: ServedCall, mustEnd: boolean): Promise<Input> {
  const pieces: Uint8Array[] = []
  let bytes = 0
  for (;;) {
    const piece = await served.read()
    if (piece === undefined) return { first: Buffer.concat(pieces), length: bytes, isWhole: true }
    pieces.push(piece)
    bytes += piece.length
    if (bytes <= measuredBytesMax) continue
    if (mustEnd) throw new FndError('request-body-too-large')
    return { first: Buffer.concat(pieces), length: undefined, isWhole: false }
  }
}

async function wholeBody(served: ServedCall, bytesMax: number): Promise<Uint8Array> {
  if ((served.length ?? 0) > bytesMax) throw new FndError('request-body-too-large')
  const pieces: Uint8Array[] = []
  let bytes = 0
  for (;;) {
    const piece = await served.read()
    if (piece === undefined) return Buffer.concat(pieces)
    pieces.push(piece)
    bytes += piece.length
    if (bytes > bytesMax) throw new FndError('request-body-too-large')
  }
}
