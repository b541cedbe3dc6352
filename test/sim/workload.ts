/**
 * Clients of the cluster, each with one request at a time, through any node: as over HTTP, a node
 * that does not lead hands a write to its leader once. What no answer came for is asked again with
 * the same number, so that it counts once; in the history it is one operation.
 */
import type { FndError } from '../../src/errors.ts'
import type { Cluster } from './cluster.ts'
import type { Request } from './machine.ts'
import type { SimNode } from './node.ts'
import type { LoadOptions } from './options.ts'
import type { Prng } from './prng.ts'
import type { RegisterInput, RegisterOperation, RegisterOutput } from './registers.ts'

type Answer =
  | { readonly kind: 'ok'; readonly output: RegisterOutput }
  /** It has no effect, now or later. */
  | { readonly kind: 'refused' }
  | { readonly kind: 'unknown' }

/** Errors after which a request may still come to be applied. */
const unknownCodes: ReadonlySet<string> = new Set(['outcome-unknown', 'store-failed'])

export class Workload {
  readonly history: RegisterOperation[] = []
  /** Writes that were refused at every attempt: they must never be applied. */
  readonly refused: Request[] = []
  isOver = false
  readonly #cluster: Cluster
  readonly #prng: Prng
  readonly #options: LoadOptions
  #active = 0
  #clients = 0
  #quietUntilMs = 0

  constructor(cluster: Cluster) {
    this.#cluster = cluster
    this.#prng = cluster.world.prng.fork()
    this.#options = cluster.options.load
    for (let count = 0; count < this.#options.clients; count++) this.#begin(this.#newClient())
    const { quietEveryMs } = this.#options
    if (quietEveryMs > 0) this.#rest(quietEveryMs)
  }

  get isIdle(): boolean {
    return this.#active === 0
  }

  /** One request by a client of its own. `done` tells whether it came to an answer. */
  once(
    kind: 'read' | 'write',
    node: SimNode,
    timeoutMs: number,
    done: (isOk: boolean) => void,
  ): void {
    const client = this.#newClient()
    const key = `k${this.#prng.below(this.#options.keys)}`
    const input: RegisterInput =
      kind === 'read' ? { kind, key } : { kind, key, value: `${client}.1` }
    this.#run({ client, seq: 1, input }, { timeoutMs, attemptsMax: 1, node }, done)
  }

  #newClient(): number {
    this.#clients += 1
    return this.#clients
  }

  #rest(everyMs: number): void {
    const { world, electionMs } = this.#cluster
    world.after(this.#prng.exponential(everyMs), () => {
      this.#quietUntilMs = world.nowMs + this.#prng.exponential(electionMs * 3)
      world.count('fault: everybody rests')
      this.#rest(everyMs)
    })
  }

  #begin(client: number, seq = 1): void {
    const { world } = this.#cluster
    const isBurst = this.#prng.chance(this.#options.burst)
    const thinkMs = isBurst ? 0 : this.#prng.exponential(this.#options.thinkMs)
    world.after(Math.max(thinkMs, this.#quietUntilMs - world.nowMs), () => {
      if (this.isOver) return
      const request = { client, seq, input: this.#input(client, seq) }
      const { timeoutMs, attemptsMax } = this.#options
      this.#run(request, { timeoutMs, attemptsMax }, () => this.#begin(client, seq + 1))
    })
  }

  #input(client: number, seq: number): RegisterInput {
    const key = `k${this.#prng.below(this.#options.keys)}`
    const value = `${client}.${seq}`
    if (this.#prng.chance(this.#options.readShare)) return { kind: 'read', key }
    const { machine } = this.#cluster.options
    if (machine !== 'kv' || this.#prng.chance(0.8)) return { kind: 'write', key, value }
    const node = this.#prng.pick(this.#cluster.up)
    return { kind: 'swap', key, expected: node?.machine?.inner.get(key) ?? '', value }
  }

  #run(
    request: Request,
    how: { readonly timeoutMs: number; readonly attemptsMax: number; readonly node?: SimNode },
    done: (isOk: boolean) => void,
  ): void {
    const { world } = this.#cluster
    const invokedAt = world.moment()
    this.#active += 1
    let isUnknown = false
    const end = (answer: Answer) => {
      this.#active -= 1
      const output = answer.kind === 'ok' ? answer.output : undefined
      const isRefused = answer.kind === 'refused' && !isUnknown
      const { input } = request
      world.count(
        `answers: ${answer.kind === 'ok' ? input.kind : isRefused ? 'refused' : 'unknown'}`,
      )
      if (!isRefused) this.history.push({ input, output, invokedAt, returnedAt: world.moment() })
      else if (input.kind !== 'read') this.refused.push(request)
      done(answer.kind === 'ok')
    }
    const attempt = (number: number) => {
      this.#attempt(request, how.node, how.timeoutMs, answer => {
        if (answer.kind === 'unknown') isUnknown = true
        if (answer.kind === 'ok' || number >= how.attemptsMax) return end(answer)
        world.count('branch: request repeated')
        world.after(this.#prng.exponential(this.#cluster.electionMs / 2), () => attempt(number + 1))
      })
    }
    attempt(1)
  }

  #attempt(
    request: Request,
    to: SimNode | undefined,
    timeoutMs: number,
    done: (answer: Answer) => void,
  ): void {
    const { world } = this.#cluster
    let isOver = false
    const end = (answer: Answer) => {
      if (isOver) return
      isOver = true
      world.note(`answer ${answer.kind}`, request.client, request.seq)
      done(answer)
    }
    const node = to ?? this.#prng.pick(this.#cluster.up)
    if (node === undefined) {
      world.after(timeoutMs, () => end({ kind: 'refused' }))
      return
    }
    world.after(timeoutMs, () => end({ kind: 'unknown' }))
    world.note(`ask ${request.input.kind}`, request.client, request.seq, node.id)
    // The way there and back; answers of processes that ended are never heard.
    world.after(this.#wayMs(), () => {
      const answer = (found: Answer) => world.after(this.#wayMs(), () => end(found))
      if (request.input.kind === 'read') this.#read(node, request.input.key, answer)
      else this.#write(node, request, answer, true)
    })
  }

  /** Sometimes a client goes on at another node, from the index that it was answered. */
  #follow(index: number): void {
    if (!this.#prng.chance(0.05)) return
    const node = this.#prng.pick(this.#cluster.up)
    const process = node?.process
    process?.dispatch(() =>
      node?.member?.whenApplied(index, isApplied => {
        if (process.isOver || !isApplied) return
        this.#cluster.world.count('branch: waited for an index')
        if (node.appliedIndex < index) this.#cluster.world.fail(`${index} is not applied after all`)
      }),
    )
  }

  #wayMs(): number {
    return this.#prng.exponential(0.5)
  }

  #read(node: SimNode, key: string, answer: (answer: Answer) => void): void {
    const { checker } = this.#cluster
    const { process } = node
    if (process === undefined || process.isOver) return answer({ kind: 'refused' })
    process.dispatch(() => {
      const { committedIndex } = checker
      const status = node.member?.role === 'leader' ? node.member.status() : undefined
      if (status !== undefined && (checker.committed[status.commit]?.term ?? 0) < status.term) {
        this.#cluster.world.count('branch: read before the first commit of the term')
      }
      node.member?.read(isConfirmed => {
        const { machine } = node
        if (process.isOver || machine === undefined) return
        if (!isConfirmed) return answer({ kind: 'refused' })
        checker.read(node.id, committedIndex, machine.appliedIndex)
        answer({ kind: 'ok', output: { before: machine.inner.get(key) } })
      })
    })
  }

  #write(
    node: SimNode,
    request: Request,
    answer: (answer: Answer) => void,
    mayForward: boolean,
  ): void {
    const { checker, net, nodes, world } = this.#cluster
    const { process } = node
    if (process === undefined || process.isOver) return answer({ kind: 'refused' })
    process.dispatch(() => {
      const { member } = node
      if (member === undefined) return
      const leader = nodes.get(member.lead)
      if (member.role !== 'leader' && mayForward && leader !== undefined && leader !== node) {
        world.count('branch: write forwarded')
        const back = (found: Answer) => net.call(leader.id, node.id, () => answer(found))
        net.call(node.id, leader.id, () => this.#write(leader, request, back, false))
        return
      }
      const bytes = this.#cluster.encode(request)
      member.propose(bytes, (error, applied) => {
        if (process.isOver) return
        if (!mayForward) member.tellCommit()
        if (applied === undefined) return answer(refusalFrom(error))
        checker.acknowledged(node.id, applied.index, bytes)
        this.#follow(applied.index)
        answer({ kind: 'ok', output: applied.result as RegisterOutput })
      })
    })
  }
}

function refusalFrom(error: FndError | undefined): Answer {
  return { kind: error !== undefined && unknownCodes.has(error.code) ? 'unknown' : 'refused' }
}
