/**
 * Snapshots on their way between members, each over a connection of its own, so that heartbeats
 * never wait behind them. A transfer that broke goes on where it ended. The receiver steps the
 * `MsgSnap` of what it really received, which may be newer than what its leader's core had in mind.
 */
import type { DriverObserver } from '../raft/observer.ts'
import type { Message, NodeId, Snapshot } from '../raft/types.ts'
import { countOf, fieldOf } from './bundle-stream.ts'
import type { PeerHandlers, Peers } from './types.ts'

/** What this node takes of its own state. The file goes when it is disposed. */
interface Taken extends AsyncDisposable {
  readonly name: string
  readonly path: string
  readonly bytes: number
}

export interface TransferParts {
  readonly nodeId: NodeId
  readonly peers: Pick<Peers, 'call' | 'upload'>
  readonly take: () => Promise<Taken>
  readonly framesOf: (path: string, fromOffset: number) => AsyncIterable<Uint8Array>
  readonly staging: {
    receivedBytes(name: string): number
    receive(
      offer: { readonly name: string; readonly bytes: number },
      fromOffset: number,
      stream: AsyncIterable<Uint8Array>,
    ): Promise<Snapshot>
  }
  readonly observer: DriverObserver
  /** To the member of this node. */
  readonly receive: (messages: readonly Message[]) => void
  /** Why one could not be sent; raft asks for another. */
  readonly onFailure: (to: NodeId, error: unknown) => void
}

/** One snapshot is offered that often before the next is taken. */
const attemptsMax = 5
const pauseMs = 200

export class SnapshotTransfer {
  readonly #parts: TransferParts
  readonly #active = new Set<NodeId>()
  #isClosed = false

  constructor(parts: TransferParts) {
    this.#parts = parts
  }

  /** As `Network.sendSnapshot`. */
  send(message: Message, done: (isOk: boolean) => void): void {
    const { to } = message
    if (this.#active.has(to) || this.#isClosed) return void setImmediate(() => done(false))
    this.#active.add(to)
    void this.#send(message)
      .then(
        () => true,
        (error: unknown) => {
          this.#parts.observer.snapshot('send-failed', to, 0, 0)
          this.#parts.onFailure(to, error)
          return false
        },
      )
      .then(isOk => {
        this.#active.delete(to)
        done(isOk)
      })
  }

  async #send({ to, term }: Message): Promise<void> {
    const { take, observer } = this.#parts
    const startedMs = performance.now()
    await using taken = await take()
    const takenMs = performance.now()
    observer.snapshot('built', 0, taken.bytes, takenMs - startedMs)
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#offer(to, term, taken)
        observer.snapshot('sent', to, taken.bytes, performance.now() - takenMs)
        return
      } catch (error) {
        if (attempt === attemptsMax || this.#isClosed) throw error
        await Bun.sleep(pauseMs * attempt)
      }
    }
  }

  async #offer(to: NodeId, term: number, { name, bytes, path }: Taken): Promise<void> {
    const { peers, framesOf } = this.#parts
    const { head } = await peers.call(to, 'snapshot.offer', { name })
    const offset = Number(fieldOf(head, 'receivedBytes'))
    await peers.upload(to, 'snapshot.put', { name, bytes, offset, term }, framesOf(path, offset))
  }

  handlers(): PeerHandlers {
    const { staging, receive, nodeId } = this.#parts
    return {
      calls: {
        'snapshot.offer': async ({ head }) => ({
          head: { receivedBytes: staging.receivedBytes(String(fieldOf(head, 'name'))) },
        }),
      },
      uploads: {
        'snapshot.put': async ({ from, head }, body) => {
          const name = String(fieldOf(head, 'name'))
          const offer = { name, bytes: countOf(head, 'bytes') }
          const term = countOf(head, 'term')
          const snapshot = await staging.receive(offer, countOf(head, 'offset'), body)
          receive([
            {
              type: 'MsgSnap',
              from,
              to: nodeId,
              term,
              logTerm: 0,
              index: 0,
              commit: 0,
              entries: [],
              reject: false,
              rejectHint: 0,
              snapshot,
              context: 0,
              isTransfer: false,
            },
          ])
          return {}
        },
      },
      downloads: {},
    }
  }

  close(): void {
    this.#isClosed = true
  }
}
