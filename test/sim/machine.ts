/**
 * The state machines of the simulation. `KvMachine` is small and quick: keys with texts, and for
 * each client the last answer, so that a request that comes twice counts once (thesis §6.3).
 */
import type { CommittedEntry, StateMachine } from '../../src/raft/ports.ts'
import type { ConfState } from '../../src/raft/types.ts'
import type { RegisterInput, RegisterOutput } from './registers.ts'

/** A state that never changes any more: of a snapshot, or of what is on the disk. */
export interface MachineImage {
  readonly index: number
  readonly term: number
  readonly confState: ConfState
  /** Equal on all nodes at the same index, whatever way they came there. */
  readonly hash: string
  readonly state: unknown
}

/** What becomes of it on a disk is not its business. */
export interface SimMachine extends Omit<StateMachine, 'flush' | 'install'> {
  readonly hash: string
  image(): MachineImage
  /** Takes the place of the current state. */
  become(image: MachineImage): void
  get(key: string): string
  /** Frees what it holds outside of memory. */
  end(): void
}

/** What clients ask for, as an entry carries it. `seq` counts up by one for each request. */
export interface Request {
  readonly client: number
  readonly seq: number
  readonly input: RegisterInput
}

const encoder = new TextEncoder()
const decoder = new TextDecoder()

/** At least `length` bytes. */
export function encodeRequest(request: Request, length: number): Uint8Array {
  return encoder.encode(JSON.stringify(request).padEnd(length))
}

export function decodeRequest(bytes: Uint8Array): Request {
  return JSON.parse(decoder.decode(bytes))
}

interface KvState {
  readonly values: Map<string, string>
  readonly sessions: Map<number, { readonly seq: number; readonly output: RegisterOutput }>
}

export function emptyImage(confState: ConfState): MachineImage {
  const state: KvState = { values: new Map(), sessions: new Map() }
  return { index: 0, term: 0, confState, hash: '0', state }
}

export class KvMachine implements SimMachine {
  #values = new Map<string, string>()
  #sessions: KvState['sessions'] = new Map()
  #index = 0
  #term = 0
  #confState: ConfState
  #hash = '0'

  constructor(image: MachineImage) {
    this.#confState = image.confState
    this.become(image)
  }

  get appliedIndex(): number {
    return this.#index
  }

  get appliedTerm(): number {
    return this.#term
  }

  get confState(): ConfState {
    return this.#confState
  }

  get hash(): string {
    return this.#hash
  }

  get(key: string): string {
    return this.#values.get(key) ?? ''
  }

  apply(entries: readonly CommittedEntry[]): readonly unknown[] {
    return entries.map(entry => this.#applyOne(entry))
  }

  #applyOne(entry: CommittedEntry): RegisterOutput | undefined {
    const { index, term, kind, bytes, confState } = entry
    this.#index = index
    this.#term = term
    let output: RegisterOutput | undefined
    if (kind !== 'normal') this.#confState = confState ?? this.#confState
    else if (bytes.length > 0) output = this.#answer(decodeRequest(bytes))
    const text = `${this.#hash}|${index}|${term}|${decoder.decode(bytes)}|${output?.before}`
    this.#hash = Bun.hash.wyhash(text).toString(36)
    return output
  }

  #answer({ client, seq, input }: Request): RegisterOutput {
    const session = this.#sessions.get(client)
    if (session !== undefined && seq <= session.seq) return session.output
    const before = this.get(input.key)
    const output = { before }
    if (input.kind === 'write' || (input.kind === 'swap' && input.expected === before)) {
      this.#values.set(input.key, input.value)
    }
    this.#sessions.set(client, { seq, output })
    return output
  }

  settle(): void {}

  image(): MachineImage {
    const state: KvState = {
      values: new Map(this.#values),
      sessions: new Map(this.#sessions),
    }
    const confState = this.#confState
    return { index: this.#index, term: this.#term, confState, hash: this.#hash, state }
  }

  become(image: MachineImage): void {
    const { values, sessions } = image.state as KvState
    this.#values = new Map(values)
    this.#sessions = new Map(sessions)
    this.#index = image.index
    this.#term = image.term
    this.#confState = image.confState
    this.#hash = image.hash
  }

  end(): void {}
}
