/**
 * The network between the nodes. It may lose, double, delay, reorder and clog, and cut any link in
 * one direction or both. A frame that was changed on its way is one that is lost, since the
 * transport refuses it by its checksum. Frames outlive the processes that sent them.
 */
import type { Message, NodeId } from '../../src/raft/types.ts'
import { decodeMessages, encodeMessages } from '../../src/raft/wire.ts'
import type { NetOptions } from './options.ts'
import type { Prng } from './prng.ts'
import type { World } from './world.ts'

export const peaceful: NetOptions = {
  delayMinMs: 0.5,
  delayMeanMs: 0.5,
  loss: 0,
  duplicate: 0,
  corrupt: 0,
  late: 0,
  lateMaxMs: 0,
  lateCopies: false,
  linkQueueMax: 10_000,
  isEncoded: false,
  clogEveryMs: 0,
  partitionEveryMs: 0,
  partitionMs: 0,
  flap: 0,
  snapshotMeanMs: 5,
  snapshotCut: 0,
}

interface Link {
  queued: number
  clogUntilMs: number
}

export class SimNet {
  options: NetOptions
  readonly #world: World
  readonly #prng: Prng
  readonly #deliver: (message: Message) => void
  readonly #links = new Map<number, Link>()
  /** Directions that are cut. */
  readonly #cut = new Set<number>()

  constructor(world: World, prng: Prng, options: NetOptions, deliver: (message: Message) => void) {
    this.#world = world
    this.#prng = prng
    this.options = options
    this.#deliver = deliver
  }

  send(given: Message): void {
    const { from, to } = given
    const prng = this.#prng
    const message = this.options.isEncoded ? this.#coded(given) : given
    const link = this.#link(from, to)
    if (this.#isLost(from, to)) return
    if (link.queued >= this.options.linkQueueMax) {
      this.#world.count('fault: queue of a link full')
      return
    }
    this.#carry(message, link)
    if (prng.chance(this.options.duplicate)) {
      this.#world.count('fault: message doubled')
      this.#carry(message, link, this.options.lateCopies)
    }
  }

  /** Something else than a message of raft, such as a client's question to another node. */
  call(from: NodeId, to: NodeId, run: () => void): void {
    if (this.#isLost(from, to)) return
    this.#world.after(this.#delayMs(this.#link(from, to)), () => {
      if (!this.isCut(from, to)) run()
    })
  }

  isCut(from: NodeId, to: NodeId): boolean {
    return this.#cut.has(keyOf(from, to))
  }

  cut(from: NodeId, to: NodeId): void {
    this.#cut.add(keyOf(from, to))
  }

  mend(): void {
    this.#cut.clear()
  }

  clog(from: NodeId, to: NodeId, ms: number): void {
    this.#link(from, to).clogUntilMs = this.#world.nowMs + ms
  }

  /** All that was said is gone, and what was slow is quick. */
  calm(): void {
    this.mend()
    this.options = peaceful
    for (const link of this.#links.values()) link.clogUntilMs = 0
  }

  #isLost(from: NodeId, to: NodeId): boolean {
    if (this.isCut(from, to)) {
      this.#world.count('fault: message into a cut link')
      return true
    }
    if (this.#prng.chance(this.options.loss)) {
      this.#world.count('fault: message lost')
      return true
    }
    if (this.#prng.chance(this.options.corrupt)) {
      this.#world.count('fault: frame corrupt')
      return true
    }
    return false
  }

  /** As it comes out at the other end; one that was changed on its way must not come out. */
  #coded(message: Message): Message {
    const bytes = encodeMessages([message])
    const decoded = decodeMessages(bytes)
    if (!decoded.ok) this.#world.fail(`a message is refused: ${decoded.fault}`)
    const changed = bytes.slice()
    const at = this.#prng.below(changed.length)
    changed[at] = (changed[at] ?? 0) ^ (1 << this.#prng.below(8))
    if (decodeMessages(changed).ok) this.#world.fail(`a message that was changed at ${at} is taken`)
    this.#world.count('fault: frame changed on its way')
    return decoded.messages[0] ?? message
  }

  #carry(message: Message, link: Link, isLate = false): void {
    link.queued += 1
    this.#world.after(this.#delayMs(link, isLate), () => {
      link.queued -= 1
      if (this.isCut(message.from, message.to)) {
        this.#world.count('fault: message into a cut link')
        return
      }
      this.#deliver(message)
    })
  }

  #delayMs(link: Link, isLate = false): number {
    const { delayMinMs, delayMeanMs, late, lateMaxMs } = this.options
    const prng = this.#prng
    const clogMs = Math.max(0, link.clogUntilMs - this.#world.nowMs)
    const delayMs = clogMs + delayMinMs + prng.exponential(delayMeanMs)
    if (!isLate && !prng.chance(late)) return delayMs
    this.#world.count('fault: message of long ago')
    return delayMs + prng.real() * lateMaxMs
  }

  #link(from: NodeId, to: NodeId): Link {
    const key = keyOf(from, to)
    let link = this.#links.get(key)
    if (link === undefined) {
      link = { queued: 0, clogUntilMs: 0 }
      this.#links.set(key, link)
    }
    return link
  }
}

function keyOf(from: NodeId, to: NodeId): number {
  return from * 100_000 + to
}
