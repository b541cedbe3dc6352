/**
 * One container from its creation to its removal. Its output is read from the stream that is
 * attached before it starts, so nothing of it is missed and nothing is written to a disk. When the
 * stream ends, the daemon is asked why: the container ended, or the daemon did. A container that
 * outlives its daemon goes on serving calls through its socket, and is attached to again.
 */
import type { Socket } from 'node:net'
import type { Container as Handle } from 'dockerode'
import { FndError } from '../../errors.ts'
import { signalName } from '../child.ts'
import type { Exit, OutputSink } from '../driver.ts'
import type { ContainerStdio } from './container-stdio.ts'
import { DockerRefusal, type Engine } from './engine.ts'
import { Frames } from './frames.ts'
import { isInContainer } from './usage.ts'

export interface ContainerOptions {
  readonly engine: Engine
  readonly instanceId: string
  /** Docker's. */
  readonly id: string
  readonly output: OutputSink
  /** Takes stdout in place of `output`, for formats that answer there; there is a stdin then. */
  readonly stdout: ContainerStdio | undefined
}

interface State {
  readonly Running: boolean
  readonly Pid: number
  readonly ExitCode: number
  readonly OOMKilled: boolean
  readonly Error: string
}

const tailBytesMax = 2048
/** Exit codes above this say which signal ended the process (tini's, and every shell's, custom). */
const signalBase = 128
const sigkill = 9
const removeTimeoutMs = 20_000
/** An ended stream is news of an end, which the daemon may know a moment later. */
const settlePolls = 60
const attachAgainMs = 1000
/** While the daemon is away, which costs no request. */
const awayPollMs = 200
const pauseTimeoutMs = 5000
const killTimeoutMs = 5000
const oomSettleMs = 50
const oomSettlePolls = 10
const decoder = new TextDecoder()

export class Container {
  readonly id: string
  /** Settles when it is removed, or the daemon knows it no more. Never rejects. */
  readonly gone: Promise<Exit>
  readonly #options: ContainerOptions
  readonly #settle: (exit: Exit) => void
  #stream: Socket | undefined
  #tail = ''
  #exit: Exit | undefined
  #removing: Promise<void> | undefined
  #isKilled = false
  #hasStarted = false
  #hasServed = false
  #pid: number | undefined
  readonly #ended = Promise.withResolvers<Exit>()

  constructor(options: ContainerOptions) {
    this.#options = options
    this.id = options.id
    const { promise, resolve } = Promise.withResolvers<Exit>()
    this.gone = promise
    this.#settle = resolve
  }

  /** The end of what it wrote to stderr and stdout, for messages about a start that failed. */
  get tail(): string {
    return this.#tail.trim()
  }

  /** Set once it has ended by itself or was removed. */
  get exit(): Exit | undefined {
    return this.#exit
  }

  /** Settles when its process ended; the container may still be there. */
  get ended(): Promise<Exit> {
    return this.#ended.promise
  }

  /** Of its first process; undefined before `learnPid`, on another host, or when it has ended. */
  get pid(): number | undefined {
    return this.#exit === undefined ? this.#pid : undefined
  }

  get stdin(): Socket | undefined {
    return this.#stream
  }

  /** Rejects with `FndError` or `DockerRefusal`; the caller removes it then. */
  async start(): Promise<void> {
    await this.#attach()
    await this.#ask(handle => handle.start())
    this.#hasStarted = true
  }

  /**
   * Asks for the pid. Costs a request, so it is asked while the function gets ready. A function
   * that answers is no worse for a daemon that does not, so this rejects for bugs only.
   */
  async learnPid(): Promise<void> {
    const state = await this.#stateNow()
    if (typeof state !== 'object' || !state.Running) return
    if (isInContainer(state.Pid, this.id)) this.#pid = state.Pid
  }

  /** SIGTERM, then SIGKILL after `graceMs`; resolves when it is removed. */
  async stop(graceMs: number): Promise<void> {
    if (this.#exit === undefined && graceMs > 0 && this.#removing === undefined) {
      try {
        await this.#ask(handle => handle.kill({ signal: 'SIGTERM' }), killTimeoutMs)
        await Promise.race([this.ended, Bun.sleep(graceMs)])
      } catch (cause) {
        // It ended meanwhile, or the daemon is away: either way what is left is to remove it.
        if (!isOperational(cause)) throw cause
        // How it ended is known in a moment, and only until it is removed.
        if (cause instanceof DockerRefusal) await Promise.race([this.ended, Bun.sleep(graceMs)])
      }
    }
    await this.remove()
  }

  /**
   * Removes it, running or not. While the daemon is away it is given up: what is left behind has
   * fnd's label, and is removed when the daemon is back.
   */
  remove(): Promise<void> {
    this.#removing ??= this.#remove()
    return this.#removing
  }

  async #remove(): Promise<void> {
    const { stdout } = this.#options
    this.#isKilled = this.#exit === undefined
    try {
      await this.#ask(handle => handle.remove({ force: true, v: true }), removeTimeoutMs)
    } catch (cause) {
      // Removed by somebody else, being removed, or the daemon is away.
      if (!isOperational(cause)) throw cause
    }
    this.#stream?.destroy()
    // Of one that never ran there was no output: another may be started in its place.
    if (this.#hasStarted) stdout?.end()
    this.#end({ code: null, signal: 'SIGKILL', outOfMemory: false })
    this.#settle(this.#exit ?? { code: null, signal: 'SIGKILL', outOfMemory: false })
  }

  /** One whose pause had no answer may be paused later, under a call: it has to go. */
  async pause(): Promise<void> {
    try {
      await this.#change(handle => handle.pause())
    } catch (cause) {
      if (cause instanceof FndError && cause.code === 'docker-unavailable') void this.remove()
      throw cause
    }
  }

  async resume(): Promise<void> {
    await this.#change(handle => handle.unpause())
  }

  async #change(act: (handle: Handle) => Promise<unknown>): Promise<void> {
    try {
      await this.#ask(act, pauseTimeoutMs)
    } catch (cause) {
      if (!(cause instanceof DockerRefusal)) throw cause
      throw new FndError('container-refused', { detail: cause.message, cause })
    }
  }

  async #attach(): Promise<void> {
    const stdin = this.#options.stdout !== undefined
    const stream = (await this.#ask(handle =>
      handle.attach({ stream: true, stdin, stdout: true, stderr: true, hijack: true }),
    )) as unknown as Socket
    if (this.#removing !== undefined) return void stream.destroy()
    this.#stream = stream
    const frames = new Frames()
    const waits: Promise<void>[] = []
    stream.on('data', (chunk: Buffer) => {
      frames.push(chunk, (name, piece) => {
        const wait = this.#deliver(name, piece)
        if (wait !== undefined) waits.push(wait)
      })
      if (waits.length === 0) return
      stream.pause()
      void Promise.all(waits.splice(0)).then(() => stream.resume())
    })
    // An error is followed by `close`, which tells all that is to be told.
    stream.on('error', () => undefined)
    stream.on('close', () => void this.#streamEnded(stream))
    stream.on('end', () => void this.#streamEnded(stream))
  }

  #deliver(name: 'stdout' | 'stderr', piece: Uint8Array): Promise<void> | undefined {
    const { output, stdout, instanceId } = this.#options
    if (name === 'stdout' && stdout !== undefined) return stdout.receive(piece)
    if (!this.#hasServed) {
      this.#tail = (this.#tail + decoder.decode(piece)).slice(-tailBytesMax)
    }
    return output.output(instanceId, name, piece) ?? undefined
  }

  /** From here on the end of its output is of no use for messages. */
  markServing(): void {
    this.#hasServed = true
    this.#tail = ''
  }

  /** Learns what the end of the stream meant. */
  async #streamEnded(stream: Socket): Promise<void> {
    if (this.#stream !== stream || this.#removing !== undefined) return
    this.#stream = undefined
    stream.destroy()
    if (this.#hasStarted) this.#options.stdout?.end()
    let wasAway = false
    for (let polls = 0; this.#removing === undefined; polls += 1) {
      const state = await this.#stateNow()
      if (state === 'gone') return this.#lost()
      if (state !== 'unknown' && !state.Running && this.#hasStarted) return this.#died(state)
      const isSettled = wasAway || polls >= settlePolls
      if (state !== 'unknown' && isSettled) return this.#attachAgain(wasAway ? 0 : attachAgainMs)
      wasAway = state === 'unknown'
      await Bun.sleep(wasAway ? awayPollMs : Math.min(50, polls + 1))
    }
  }

  async #attachAgain(delayMs: number): Promise<void> {
    // What was lost of an answer cannot be had again.
    if (this.#options.stdout !== undefined) return this.remove()
    // A function may close its own output; then there is nothing to read, and this goes round.
    await Bun.sleep(delayMs)
    if (this.#removing !== undefined) return
    try {
      await this.#attach()
    } catch (cause) {
      if (!isOperational(cause)) throw cause
      const stream = { destroy: () => undefined } as unknown as Socket
      this.#stream = stream
      await this.#streamEnded(stream)
    }
  }

  async #stateNow(): Promise<State | 'gone' | 'unknown'> {
    try {
      return (await this.#inspect()) ?? 'gone'
    } catch (cause) {
      if (!isOperational(cause)) throw cause
      return 'unknown'
    }
  }

  /** Undefined when the daemon knows no such container. */
  async #inspect(): Promise<State | undefined> {
    try {
      return (await this.#ask(handle => handle.inspect())).State as State
    } catch (cause) {
      if (cause instanceof DockerRefusal && cause.statusCode === 404) return undefined
      throw cause
    }
  }

  #ask<T>(act: (handle: Handle) => Promise<T>, timeoutMs?: number): Promise<T> {
    return this.#options.engine.ask(docker => act(docker.getContainer(this.id)), timeoutMs)
  }

  async #died(state: State): Promise<void> {
    let final = state
    for (let polls = 0; polls < oomSettlePolls; polls += 1) {
      if (final.ExitCode !== signalBase + sigkill || final.OOMKilled || this.#isKilled) break
      // The kernel's word of a kill for want of memory can come after that of the end.
      await Bun.sleep(oomSettleMs)
      const again = await this.#stateNow()
      if (typeof again === 'object') final = again
    }
    const { ExitCode, OOMKilled } = final
    const isSignal = ExitCode > signalBase && ExitCode < signalBase + 65
    this.#end({
      code: isSignal ? null : ExitCode,
      signal: isSignal ? signalName(ExitCode - signalBase) : null,
      outOfMemory: OOMKilled && !this.#isKilled,
    })
    this.#options.stdout?.end()
    await this.remove()
  }

  /** Somebody removed it. */
  async #lost(): Promise<void> {
    this.#end({ code: null, signal: 'SIGKILL', outOfMemory: false })
    await this.remove()
  }

  #end(exit: Exit): void {
    if (this.#exit !== undefined) return
    this.#exit = exit
    this.#ended.resolve(exit)
  }
}

/** The daemon refused or is away: the world's fault, not fnd's. */
export function isOperational(cause: unknown): boolean {
  return cause instanceof DockerRefusal || cause instanceof FndError
}
