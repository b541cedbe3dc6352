import type { ErrorCode } from '../errors.ts'

/** Everything that an instance is made from. Two specs with the same `key` may share instances. */
export interface FnSpec {
  /** SHA-256 over all that an instance depends on: image, config, limits, annotations. */
  readonly key: string
  readonly fnId: string
  readonly fnName: string
  readonly appId: string
  readonly appName: string
  readonly image: string
  readonly memoryMb: number
  readonly timeoutMs: number
  readonly idleTimeoutMs: number
  /** App config, then fn config, then the reserved FN_* names, which win. */
  readonly env: Readonly<Record<string, string>>
  /** Calls that one instance takes at a time. */
  readonly concurrency: number
  readonly instancesMin: number
  readonly instancesMax: number
  /** `none` cuts the instance off from every network, loopback included. */
  readonly network: 'host' | 'none'
  /** How the program is spoken to; all but http-stream are for containers (fn-api.md §2.8). */
  readonly format: Format
  /** Whose rules hold where the older formats of Fn and IronFunctions differ (fn-api.md §3.4). */
  readonly dialect: 'fn' | 'iron'
  /** When the image is fetched from its registry. */
  readonly pull: 'missing' | 'always' | 'never'
  /** The image is this one (`sha256:<hex>`), wherever its tag points; absent: as the tag says. */
  readonly digest?: string
  /** An idle instance is paused after this time, where its driver can; Infinity: never. */
  readonly pauseAfterMs: number
  /** Where the output of its containers goes besides; '' for nowhere. */
  readonly syslogUrl: string
}

/**
 * `http-stream`: HTTP over a unix socket. `http` and `json`: call after call over stdin and stdout.
 * `default`: a container for each call.
 */
export type Format = 'http-stream' | 'http' | 'json' | 'default'

/** Where an instance's output goes. `text` holds whole lines or pieces of them, not yet split. */
export interface OutputSink {
  output(instanceId: string, stream: 'stdout' | 'stderr', chunk: Uint8Array): void | Promise<void>
}

export interface Exit {
  readonly code: number | null
  readonly signal: string | null
  /** The kernel, or the watcher of memory, ended it for using more than `memoryMb`. */
  readonly outOfMemory: boolean
}

/** A running instance that answers http-stream calls on its socket. */
export interface Instance {
  readonly id: string
  readonly pid: number
  /**
   * Opens the rendezvous socket safely: the symlink is resolved inside the instance's own
   * directory and the inode is checked to be a socket, so that a function cannot point fnd at a
   * socket of somebody else. The path stays valid until the instance is stopped.
   */
  readonly socketPath: string
  /** Settles when every process of the instance is gone. Never rejects. */
  readonly exited: Promise<Exit>
  /** SIGTERM, then SIGKILL after `graceMs`; resolves when nothing of it is left. Also of a paused
   * one. */
  stop(graceMs: number): Promise<void>
  /** Resident bytes of all its processes, or undefined where the host cannot tell. */
  memoryBytes(): number | undefined
  /** CPU time that its processes have used, in ms; undefined where the host cannot tell. */
  cpuMs?(): number | undefined
  /**
   * Takes the processor from it while it is idle. Rejects with `FndError`; then it still runs.
   * Instances with both this and `resume` are paused. Neither is called while the other is under
   * way.
   */
  pause?(): Promise<void>
  /** Rejects with `FndError` when it cannot be had back; then it is fit only to be stopped. */
  resume?(): Promise<void>
}

/** One way to run functions. Each driver passes `test/contract/driver.ts`. */
export interface Driver extends AsyncDisposable {
  readonly name: string
  /** Whether this driver runs images of this form. */
  takes(image: string): boolean
  /** Fetches what the image needs; one fetch for however many callers. Rejects with `FndError`. */
  prepare(spec: FnSpec): Promise<void>
  /** What `prepare` waits for, and how far it is, for callers who gave up; undefined: nothing. */
  awaited?(spec: FnSpec): string | undefined
  /**
   * Starts an instance and resolves when its socket accepts calls. Rejects with `FndError`
   * `init-failed` or `init-timeout`, after removing whatever was started.
   */
  start(spec: FnSpec, instanceId: string, signal: AbortSignal): Promise<Instance>
  /** What is enforced here, for `fnd doctor` and the function's own JSON. */
  isolation(spec?: FnSpec): Isolation
}

export interface Isolation {
  readonly level: 'namespaces' | 'process'
  readonly measures: readonly IsolationMeasure[]
}

export interface IsolationMeasure {
  readonly name: string
  readonly enforced: boolean
  /** Why not, or how, in one sentence. */
  readonly note: string
}

/** Why an instance could not be started, in a form that a pool can hand to waiting calls. */
export interface StartFailure {
  readonly code: ErrorCode
  readonly detail?: string
}
