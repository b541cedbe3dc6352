import type { MemberOptions } from './member-options.ts'
import type { Message, NodeId } from './types.ts'

interface Held {
  readonly message: Message
  readonly untilMs: number
}

const none: readonly Message[] = []

type OutboxParts = Pick<MemberOptions, 'network' | 'scheduler' | 'observer'>

/**
 * Messages on their way out. An append without entries tells a follower only how far its log is
 * committed, and so does the next append with entries. It waits a moment for that one and then need
 * not be sent, nor answered: with few clients that is half of all messages. Whatever else leaves
 * for the same member lets it go first. As raft repeats what is lost, none of it must arrive.
 */
export class Outbox {
  readonly #parts: OutboxParts
  readonly #holdMs: number
  readonly #held = new Map<NodeId, Held>()
  #cancel: (() => void) | undefined
  /** When heartbeats were last sent, 0 for never. */
  #beatMs = 0

  constructor(parts: OutboxParts, holdMs: number) {
    this.#parts = parts
    this.#holdMs = holdMs
  }

  /** Returns those that carry snapshots: they take another way. */
  send(messages: readonly Message[]): readonly Message[] {
    const due: Message[] = []
    let snapshots = none
    let isBeat = false
    for (const message of messages) {
      const { type, to, entries } = message
      const held = this.#held.get(to)
      if (held !== undefined) {
        this.#held.delete(to)
        if (!says(message, held.message)) due.push(held.message)
      }
      if (type === 'MsgHeartbeat') isBeat = true
      if (type === 'MsgSnap') snapshots = [...snapshots, message]
      else if (type === 'MsgApp' && entries.length === 0) this.#hold(message, held)
      else due.push(message)
    }
    if (isBeat) this.#beat()
    if (due.length > 0) this.#parts.network.send(due)
    return snapshots
  }

  /** Somebody waits for it: what is held leaves. */
  release(): void {
    this.#releaseUntil(Number.POSITIVE_INFINITY)
  }

  #releaseUntil(nowMs: number): void {
    const due: Message[] = []
    for (const [to, { message, untilMs }] of this.#held) {
      if (untilMs > nowMs) continue
      this.#held.delete(to)
      due.push(message)
    }
    if (due.length > 0) this.#parts.network.send(due)
  }

  /** The next heartbeats are the first of another term. */
  endBeats(): void {
    this.#beatMs = 0
  }

  /** Nothing leaves by itself any more. */
  close(): void {
    this.#cancel?.()
    this.#held.clear()
  }

  #beat(): void {
    const { observer, scheduler } = this.#parts
    const nowMs = scheduler.monotonicMs()
    if (this.#beatMs > 0) observer.heartbeatGap(nowMs - this.#beatMs)
    this.#beatMs = nowMs
  }

  /** Not longer than what it takes the place of. */
  #hold(message: Message, before: Held | undefined): void {
    const untilMs = before?.untilMs ?? this.#parts.scheduler.monotonicMs() + this.#holdMs
    this.#held.set(message.to, { message, untilMs })
    this.#cancel ??= this.#releaseAfter(this.#holdMs)
  }

  /** One timer for all: what is held when it fires may have come since. */
  #releaseAfter(delayMs: number): () => void {
    return this.#parts.scheduler.after(delayMs, () => {
      this.#cancel = undefined
      const nowMs = this.#parts.scheduler.monotonicMs()
      this.#releaseUntil(nowMs)
      if (this.#held.size === 0) return
      const nextMs = Math.min(...[...this.#held.values()].map(({ untilMs }) => untilMs))
      this.#cancel = this.#releaseAfter(nextMs - nowMs)
    })
  }
}

/** Whoever receives `message` learns what it would from `held`. */
function says(message: Message, held: Message): boolean {
  return message.type === 'MsgApp' && message.term === held.term && message.commit >= held.commit
}
