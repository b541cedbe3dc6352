/**
 * Clients that write and read through all nodes, and what they saw. A register is an app whose
 * configuration holds one value; a set is the apps whose names begin alike. A request without an
 * answer may have been carried out; a refusal that says it was not must be true.
 */

import { describeVerdict } from '../sim/linearizability.ts'
import {
  checkRegisters,
  type RegisterInput,
  type RegisterOperation,
  type RegisterOutput,
} from '../sim/registers.ts'
import type { Answer, Member } from './member.ts'

const timeoutMs = 3000
const thinkMs = 4

/** With these the node promises that nothing was or will be done. */
const refusals = new Set([
  'no-leader',
  'no-quorum',
  'not-fresh',
  'disk-full',
  'write-overload',
  'cluster-busy',
  'peer-unreachable',
])

export interface Counts {
  ok: number
  refused: number
  unknown: number
}

/** Recorded as they end, on the clock of this process. */
export class Workload {
  readonly history: RegisterOperation[] = []
  readonly counts: Counts = { ok: 0, refused: 0, unknown: 0 }
  /** Names of apps whose creation was acknowledged. */
  readonly created = new Set<string>()
  /** Whose creation may have been carried out. */
  readonly uncertain = new Set<string>()
  readonly unexpected: string[] = []
  /** Reads of one's own writes through other nodes. */
  sessionReads = 0
  readonly prefix: string
  readonly #members: readonly Member[]
  readonly #random: () => number
  readonly #consistency: 'linear' | 'local'
  readonly #registers: string[] = []
  /** Of the session. */
  readonly #ownApps = new Set<string>()
  #clients: Promise<void>[] = []
  #isOver = false
  #written = 0

  /** With `local` reads it must find faults, which shows that it can. */
  constructor(
    members: readonly Member[],
    prefix: string,
    random: () => number,
    consistency: 'linear' | 'local' = 'linear',
  ) {
    this.#members = members
    this.#consistency = consistency
    this.prefix = prefix
    this.#random = random
  }

  /** Makes the registers, which takes a working cluster, and starts the clients. */
  async start(registers: number, pairsPerMember: number): Promise<void> {
    for (let i = 0; i < registers; i += 1) {
      const app = { name: `${this.prefix}-r${i}`, config: { v: '' } }
      this.#registers.push((await this.#first.api('POST', '/v2/apps', app)).id)
    }
    for (const member of this.#members) {
      for (let i = 0; i < pairsPerMember; i += 1) {
        // A client that waits for a write through a node that is cut off would not read from it.
        this.#clients.push(this.#client(member, 0.2), this.#client(member, 1))
      }
      this.#clients.push(this.#creator(member))
    }
    this.#clients.push(this.#session())
  }

  async stop(): Promise<void> {
    this.#isOver = true
    await Promise.all(this.#clients)
  }

  /** Reads each register once more. */
  async readAll(): Promise<void> {
    for (const member of this.#members) {
      for (const key of this.#registers) await this.#read(member, key)
    }
  }

  get #first(): Member {
    const [first] = this.#members
    if (first === undefined) throw new Error('a workload has members')
    return first
  }

  #key(): string {
    return this.#registers[Math.floor(this.#random() * this.#registers.length)] ?? ''
  }

  async #client(member: Member, readShare: number): Promise<void> {
    while (!this.#isOver) {
      if (this.#random() < readShare) await this.#read(member, this.#key())
      else await this.#write(member, this.#key())
      // A machine that is down refuses at once.
      await Bun.sleep(member.isRunning ? thinkMs : 50)
    }
  }

  async #creator(member: Member): Promise<void> {
    for (let i = 0; !this.#isOver; i += 1) {
      const name = `${this.prefix}-${member.name}-${i}`
      const answer = await this.#ask(member, 'POST', '/v2/apps', { name })
      if (answer === 'unknown') this.uncertain.add(name)
      else if (answer !== 'refused') this.created.add(name)
      await Bun.sleep(member.isRunning ? 10 * thinkMs : 100)
    }
  }

  /**
   * Writes through one node, and reads through another what has at least the index of the answer:
   * it must see its own writes, though it never asks for a linear read. Nobody else writes its app.
   */
  async #session(): Promise<void> {
    let app: string | undefined
    for (let i = 0; !this.#isOver; i += 1) {
      const value = `${i}`
      const config = { v: value }
      const written =
        app === undefined
          ? await this.#ask(this.#any(), 'POST', '/v2/apps', { name: this.#sessionName(i), config })
          : await this.#ask(this.#any(), 'PUT', `/v2/apps/${app}`, { config })
      await Bun.sleep(thinkMs)
      if (written === 'refused') continue
      // What may still be carried out would change the app at any time.
      app = written === 'unknown' ? undefined : written.body.id
      if (written === 'unknown') continue
      if (app !== undefined) this.#ownApps.add(app)
      const index = written.headers.get('fnd-applied-index') ?? ''
      const reader = this.#any()
      const headers = { 'fnd-consistency': 'local', 'fnd-min-index': index }
      const read = await reader.ask('GET', `/v2/apps/${app}`, { timeoutMs, headers })
      if (read?.status === 503 || read === undefined) continue
      this.sessionReads += 1
      if (read.body.config?.v === value) continue
      const seen = `${reader.name} at index ${index} or later shows ${JSON.stringify(read.body)}`
      this.unexpected.push(`after the write of ${value} to ${app}: ${seen}`)
    }
  }

  #sessionName(i: number): string {
    return `${this.prefix}-r${1000 + i}`
  }

  #any(): Member {
    return this.#members[Math.floor(this.#random() * this.#members.length)] ?? this.#first
  }

  async #write(member: Member, key: string): Promise<void> {
    const value = `${++this.#written}`
    const invokedAt = performance.now()
    const answer = await this.#ask(member, 'PUT', `/v2/apps/${key}`, { config: { v: value } })
    if (answer === 'refused') return
    const output = answer === 'unknown' ? undefined : { before: undefined }
    this.#record({ kind: 'write', key, value }, output, invokedAt)
  }

  async #read(member: Member, key: string): Promise<void> {
    const invokedAt = performance.now()
    const answer = await this.#ask(member, 'GET', `/v2/apps/${key}`)
    if (answer === 'refused' || answer === 'unknown') return
    this.#record({ kind: 'read', key }, { before: answer.body.config?.v ?? '' }, invokedAt)
  }

  #record(input: RegisterInput, output: RegisterOutput | undefined, invokedAt: number): void {
    this.history.push({ input, output, invokedAt, returnedAt: performance.now() })
  }

  async #ask(
    member: Member,
    method: string,
    path: string,
    body?: unknown,
  ): Promise<Answer | 'refused' | 'unknown'> {
    const answer = await member.ask(method, path, {
      timeoutMs,
      headers: { 'fnd-consistency': this.#consistency },
      ...(body === undefined ? {} : { body }),
    })
    if (answer !== undefined && answer.status < 300) {
      this.counts.ok += 1
      return answer
    }
    const isRefusal = answer !== undefined && refusals.has(answer.code)
    const isOutage = answer === undefined || answer.status === 503
    if (!isOutage && !isRefusal) {
      this.unexpected.push(`${member.name} ${method} ${path}: ${JSON.stringify(answer?.body)}`)
    }
    this.counts[isRefusal ? 'refused' : 'unknown'] += 1
    return isRefusal ? 'refused' : 'unknown'
  }

  /** What must not be, a sentence each. To be asked after `stop`, of a cluster that works. */
  async faults(): Promise<string[]> {
    const verdict = checkRegisters(this.history)
    const faults = [...this.unexpected]
    if (verdict.kind !== 'linearizable') faults.push(describeVerdict(verdict))
    for (const member of this.#members) {
      const names = await this.#names(member)
      const lost = [...this.created].filter(name => !names.has(name))
      const strange = [...names].filter(
        name => !this.created.has(name) && !this.uncertain.has(name) && !/-r\d+$/.test(name),
      )
      if (lost.length > 0) faults.push(`${member.name} lost what was acknowledged: ${lost}`)
      if (strange.length > 0) faults.push(`${member.name} has what was refused: ${strange}`)
    }
    return faults
  }

  /** Of this workload's apps as a member lists them. */
  async #names(member: Member): Promise<Set<string>> {
    const names = new Set<string>()
    for (let cursor = ''; ; ) {
      const query = cursor === '' ? '' : `&cursor=${encodeURIComponent(cursor)}`
      const page = await member.ask('GET', `/v2/apps?per_page=100${query}`, {
        headers: { 'fnd-consistency': 'linear' },
      })
      if (page?.status !== 200) throw new Error(`${member.name} cannot list its apps`)
      for (const { name } of page.body.items as { name: string }[]) {
        if (name.startsWith(`${this.prefix}-`)) names.add(name)
      }
      cursor = page.body.next_cursor ?? ''
      if (cursor === '') return names
    }
  }

  /** Deletes its apps, so that a hundred rounds do not slow each other down. */
  async clear(): Promise<void> {
    const ids: string[] = [...this.#registers, ...this.#ownApps]
    for (const name of this.created) {
      const { items } = await this.#first.api('GET', `/v2/apps?name=${name}`)
      if (items[0] !== undefined) ids.push(items[0].id)
    }
    await Promise.all(ids.map(id => this.#first.ask('DELETE', `/v2/apps/${id}`)))
  }
}
