/** Nodes of one process that reach each other through memory, over links that a test can break. */

import type { PeerHandlers, PeerState, Peers } from '../../src/cluster/types.ts'
import { FndError } from '../../src/errors.ts'

/** What a link does to what passes; `bytes` counts those of one body. */
export type Link =
  | { readonly kind: 'good' }
  /** Nothing is sent. */
  | { readonly kind: 'down' }
  /** Bodies break off after so many bytes. */
  | { readonly kind: 'cuts'; readonly afterBytes: number }
  /** Bodies stop after so many bytes, without an end. */
  | { readonly kind: 'hangs'; readonly afterBytes: number }
  /** The byte at this place of every body is another. */
  | { readonly kind: 'spoils'; readonly at: number }

const good: Link = { kind: 'good' }

export class MemoryNet {
  readonly #nodes = new Map<number, PeerHandlers>()
  readonly #links = new Map<string, Link>()
  readonly #rtts = new Map<string, number>()
  /** `from>to method`, in order. */
  readonly log: string[] = []
  /** What each of those asked for. */
  readonly heads: unknown[] = []

  add(id: number, handlers: PeerHandlers): void {
    this.#nodes.set(id, handlers)
  }

  /** What passes from one node to the other, whoever asked. */
  link(from: number, to: number, link: Link): void {
    this.#links.set(`${from}>${to}`, link)
  }

  /** Both ways. */
  isolate(id: number, link: Link = { kind: 'down' }): void {
    for (const other of this.#nodes.keys()) {
      this.link(id, other, link)
      this.link(other, id, link)
    }
  }

  setRtt(from: number, to: number, ms: number): void {
    this.#rtts.set(`${from}>${to}`, ms)
  }

  peersOf(self: number): Peers {
    return {
      call: async (to, method, head, options) => {
        const { calls } = this.#reach(self, to, method, head)
        const answer = await calls[method]?.(
          { from: self, method, head: copied(head) },
          options?.body ?? new Uint8Array(),
        )
        this.#linkOf(to, self)
        return { head: copied(answer?.head), body: answer?.body ?? new Uint8Array() }
      },
      upload: async (to, method, head, body) => {
        const { uploads } = this.#reach(self, to, method, head)
        const passed = through(body, this.#linkOf(self, to))
        return copied(await uploads[method]?.({ from: self, method, head: copied(head) }, passed))
      },
      download: async (to, method, head) => {
        const { downloads } = this.#reach(self, to, method, head)
        const answer = await downloads[method]?.({ from: self, method, head: copied(head) })
        if (answer === undefined) throw new FndError('internal')
        return { head: copied(answer.head), body: through(answer.body, this.#linkOf(to, self)) }
      },
      states: () =>
        [...this.#nodes.keys()].filter(id => id !== self).map(id => this.#state(self, id)),
    }
  }

  #state(self: number, id: number): PeerState {
    return {
      id,
      address: `node-${id}`,
      isConnected: (this.#links.get(`${self}>${id}`) ?? good).kind !== 'down',
      rttMs: this.#rtts.get(`${self}>${id}`),
      lastHeardMs: undefined,
      skewMs: undefined,
    }
  }

  #reach(from: number, to: number, method: string, head: unknown): PeerHandlers {
    this.log.push(`${from}>${to} ${method}`)
    this.heads.push(head)
    this.#linkOf(from, to)
    const node = this.#nodes.get(to)
    if (node === undefined) throw unreachable(to)
    return node
  }

  #linkOf(from: number, to: number): Link {
    const link = this.#links.get(`${from}>${to}`) ?? good
    if (link.kind === 'down') throw unreachable(to)
    return link
  }
}

function unreachable(id: number): FndError {
  return new FndError('internal', { message: `node ${id} cannot be reached` })
}

/** As it would be after its way over a wire. */
function copied(head: unknown): unknown {
  return head === undefined ? undefined : JSON.parse(JSON.stringify(head))
}

async function* through(body: AsyncIterable<Uint8Array>, link: Link): AsyncGenerator<Uint8Array> {
  let bytes = 0
  for await (const chunk of body) {
    const isEnd = 'afterBytes' in link && bytes + chunk.length > link.afterBytes
    if (isEnd) {
      yield chunk.slice(0, link.afterBytes - bytes)
      if (link.kind === 'hangs') await new Promise(() => undefined)
      throw new Error('the connection broke')
    }
    const passed = chunk.slice()
    if (link.kind === 'spoils' && link.at >= bytes && link.at < bytes + chunk.length) {
      passed[link.at - bytes] = (passed[link.at - bytes] ?? 0) ^ 1
    }
    yield passed
    bytes += chunk.length
  }
}
