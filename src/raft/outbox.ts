import type { MemberOptions } from './member-options.ts'
import type { Message, NodeId } from './types.ts'

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
  readonly #held = new Map<NodeId, Message>()
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
    const snapshots: Message[] = []
    let isBeat = false
    for (const message of messages) {
      const { type, to, entries } = message
      const held = this.#held.get(to)
      if (held !== undefined) {
        this.#held.delete(to)
        if (!says(message, held)) due.push(held)
      }
      if (type === 'MsgHeartbeat') isBeat = true
      if (type === 'MsgSnap') snapshots.push(message)
      else if (type === 'MsgApp' && entries.length === 0) this.#hold(message)
      else due.push(message)
    }
    if (isBeat) this.#beat()
    if (due.length > 0) this.#parts.network.send(due)
    return snapshots
  }

  /** Somebody waits for it: what is held leaves. */
  release(): void {
    if (this.#held.size === 0) return
    const due = [...this.#held.values()]
    this.#held.clear()
    this.#parts.network.send(due)
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

  #hold(message: Message): void {
    this.#held.set(message.to, message)
    this.#cancel ??= this.#parts.scheduler.after(this.#holdMs, () => {
      this.#cancel = undefined
      this.release()
    })
  }
}

/** Whoever receives `message` learns what it would from `held`. */
function says(message: Message, held: Message): boolean {
  return message.type === 'MsgApp' && message.term === held.term && message.commit >= held.commit
}
