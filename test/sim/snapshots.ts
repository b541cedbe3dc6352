/**
 * How snapshots travel: in pieces that take their time, over links that may be cut meanwhile. What
 * arrives is on the receiver's disk before its raft hears of it. That it arrived may be lost on the
 * way back.
 */
import type { Message, NodeId } from '../../src/raft/types.ts'
import type { MachineImage } from './machine.ts'
import type { SimNet } from './net.ts'
import type { SimNode } from './node.ts'
import type { Prng } from './prng.ts'
import type { World } from './world.ts'

const resumesMax = 6

export class SnapshotCarrier {
  readonly #world: World
  readonly #prng: Prng
  readonly #net: SimNet
  readonly #nodes: ReadonlyMap<NodeId, SimNode>
  readonly #busy = new Set<string>()
  #count = 0

  constructor(world: World, prng: Prng, net: SimNet, nodes: ReadonlyMap<NodeId, SimNode>) {
    this.#world = world
    this.#prng = prng
    this.#net = net
    this.#nodes = nodes
  }

  send(sender: SimNode, message: Message, done: (isOk: boolean) => void): void {
    const { process, machine } = sender
    if (process === undefined || machine === undefined || process.isOver) return
    const route = `${sender.id}/${message.to}`
    const end = (isOk: boolean) => process.dispatch(() => done(isOk))
    if (this.#busy.has(route)) {
      this.#world.count('branch: second snapshot refused')
      this.#world.after(0, () => end(false))
      return
    }
    const image = machine.inner.image()
    if (image.index < (message.snapshot?.index ?? 0)) {
      this.#world.fail(`a snapshot at ${image.index} is older than what raft promised`)
    }
    this.#world.count('branch: snapshot sent')
    this.#busy.add(route)
    const pieces = this.#prng.between(1, 5)
    const finish = (isOk: boolean) => {
      this.#busy.delete(route)
      end(isOk)
    }
    this.#next({ sender, message, image, piecesLeft: pieces, pieces, resumes: 0, finish })
  }

  #next(way: Way): void {
    const { options } = this.#net
    this.#world.after(this.#prng.exponential(options.snapshotMeanMs / way.pieces), () => {
      if (way.sender.process?.isOver !== false) return way.finish(false)
      const receiver = this.#nodes.get(way.message.to)
      if (receiver === undefined || receiver.state === 'gone') return way.finish(false)
      const isCut =
        receiver.state !== 'up' ||
        this.#net.isCut(way.sender.id, receiver.id) ||
        this.#prng.chance(options.snapshotCut)
      if (!isCut) {
        if (way.piecesLeft > 1) return this.#next({ ...way, piecesLeft: way.piecesLeft - 1 })
        return this.#arrive(way, receiver)
      }
      if (way.resumes === resumesMax) {
        this.#world.count('fault: snapshot given up')
        return way.finish(false)
      }
      this.#world.count('branch: snapshot resumed')
      this.#next({ ...way, resumes: way.resumes + 1 })
    })
  }

  #arrive({ message, image, finish }: Way, receiver: SimNode): void {
    this.#count += 1
    const data = `snapshot-${image.index}-${this.#count}`
    receiver.disk.snapshots.set(data, image)
    const { index, term, confState } = image
    receiver.receive({ ...message, snapshot: { index, term, confState, data } })
    const isTold = !this.#prng.chance(this.#net.options.snapshotCut / 2)
    if (!isTold) this.#world.count('fault: arrival of a snapshot not told')
    finish(isTold)
  }
}

interface Way {
  readonly sender: SimNode
  readonly message: Message
  readonly image: MachineImage
  readonly pieces: number
  readonly piecesLeft: number
  readonly resumes: number
  readonly finish: (isOk: boolean) => void
}
