/**
 * The joining node's side. It verifies the cluster before it says anything: by the token's hash,
 * or, without a token, by holding on to the authority that it saw first, whose key is part of the
 * fingerprint that an operator compares. Writes nothing: what it returns makes a member.
 */
import { createPublicKey, X509Certificate } from 'node:crypto'
import { FndError } from '../errors.ts'
import type { ClusterFiles } from './authority.ts'
import { type KeyPair, makeKeyPair } from './certificates.ts'
import { parseRefusal } from './connection.ts'
import { decodeJson, type FrameKind, frameKinds, jsonFrame } from './frames.ts'
import {
  type Endpoint,
  formatEndpoint,
  type Hello,
  parseEndpoint,
  parseHello,
  protocolMax,
  protocolMin,
} from './hello.ts'
import { authorityHash, isVouchedFor, joinFingerprint, peerNameOf } from './identity.ts'
import {
  type JoinGrant,
  type JoinProgress,
  type JoinRequest,
  joinFrameBytesMax,
  parseGrant,
  parseProgress,
} from './join-words.ts'
import { parseToken } from './token.ts'
import { connectTls, type Link } from './transport.ts'

export interface JoinOptions {
  /** Peer ports of members; any will do. */
  readonly targets: readonly Endpoint[]
  /** `''` without one. */
  readonly token: string
  readonly uuid: string
  readonly name: string
  readonly apiUrl: string
  /** Its own peer port, `host:port`, where members reach it. */
  readonly address: string
  readonly version: string
  readonly commandVersion: number
  readonly wallMs: () => number
  /** For people who watch: told when it changes. */
  readonly onProgress: (step: JoinStep) => void
  /** Given up after so long without reaching a leader. Waiting for approval does not count. */
  readonly patienceMs?: number
  /** Ends the attempt; the result rejects with its reason. */
  readonly signal?: AbortSignal
}

export type JoinStep =
  /** A member could not be used; others are tried, and then all again. */
  | { readonly kind: 'trying'; readonly target: string; readonly reason: string }
  /** Until `fnd nodes approve <fingerprint>`. */
  | { readonly kind: 'waiting'; readonly target: string; readonly fingerprint: string }

export interface JoinResult extends JoinGrant {
  /** PEM of this node's own key. */
  readonly key: string
  /** SHA-256 of the authority's public key, in hex: what a person may compare. */
  readonly authorityHash: string
}

/** What of it goes to `<data>/cluster`. */
export function clusterFilesOf(result: JoinResult): ClusterFiles {
  return {
    authority: result.authority.certificate,
    authorityKey: result.authority.key,
    certificate: result.certificate,
    key: result.key,
  }
}

const patienceMsDefault = 60_000
const connectTimeoutMs = 5000
/** Between two rounds over all targets: growing from the first to the last. */
const pauseMsMin = 100
const pauseMsMax = 2000
/** A member that lets us wait says every second that it lives. */
const silentMsMax = 15_000
const targetsMax = 32

type Outcome =
  | { readonly kind: 'granted'; readonly grant: JoinGrant }
  /** The cluster has said no; to ask again, or another member, would not change it. */
  | { readonly kind: 'refused'; readonly reason: string }
  /** This target is not one of the cluster, or of none. */
  | { readonly kind: 'wrong'; readonly reason: string }
  | { readonly kind: 'later'; readonly reason: string }
  | { readonly kind: 'elsewhere'; readonly address: string; readonly token: string }
  | { readonly kind: 'no-leader'; readonly addresses: readonly string[] }

const leaderless = 'the cluster has no leader at the moment'
const stranger: Outcome = { kind: 'wrong', reason: 'it does not speak as a node of fnd does' }

/** Rejects with `join-refused` or `join-unreachable`, whose details say what to do. */
export async function joinCluster(options: JoinOptions): Promise<JoinResult> {
  return await new Joining(options).run()
}

class Joining {
  readonly #options: JoinOptions
  readonly #keys: KeyPair = makeKeyPair()
  /** Of the authority: pinned by the token, else by the first that was seen. */
  #pin: Buffer | undefined
  #token: string
  #targets: Endpoint[]
  #deadlineMs: number
  readonly #told = new Map<string, string>()

  constructor(options: JoinOptions) {
    this.#options = options
    this.#token = options.token.trim()
    this.#targets = [...options.targets]
    this.#deadlineMs = this.#patience()
  }

  #patience(): number {
    return performance.now() + (this.#options.patienceMs ?? patienceMsDefault)
  }

  async run(): Promise<JoinResult> {
    if (this.#token !== '') {
      const parsed = parseToken(this.#token)
      if (parsed === undefined) throw refused('This is not a join token: print one with fnd token')
      this.#pin = parsed.authority
    }
    let pauseMs = pauseMsMin
    while (true) {
      const reasons: string[] = []
      let isAllWrong = true
      for (let at = 0; at < this.#targets.length; at++) {
        const target = this.#targets[at] as Endpoint
        const outcome = await this.#try(target)
        if (outcome.kind === 'granted') return this.#result(outcome.grant)
        if (outcome.kind === 'refused') throw refused(outcome.reason)
        if (outcome.kind !== 'wrong') isAllWrong = false
        reasons.push(`${formatEndpoint(target)}: ${this.#follow(outcome, at)}`)
      }
      if (isAllWrong) throw refused(reasons.join('; '))
      if (performance.now() > this.#deadlineMs) {
        throw new FndError('join-unreachable', { detail: reasons.join('; ') })
      }
      await this.#sleep(pauseMs)
      pauseMs = Math.min(pauseMs * 2, pauseMsMax)
    }
  }

  /** Puts what was learned of other members to use; returns why this one was of none. */
  #follow(outcome: Exclude<Outcome, { kind: 'granted' | 'refused' }>, at: number): string {
    if (outcome.kind === 'elsewhere') {
      const leader = parseEndpoint(outcome.address, 0)
      if (leader === undefined) return 'the leader has a strange address'
      if (outcome.token !== '') this.#token = outcome.token
      this.#learn(leader, at + 1)
      return `the leader is at ${outcome.address}`
    }
    if (outcome.kind !== 'no-leader') return outcome.reason
    for (const address of outcome.addresses) {
      const endpoint = parseEndpoint(address, 0)
      if (endpoint !== undefined) this.#learn(endpoint, this.#targets.length)
    }
    return leaderless
  }

  /** Into the list of this round; once only, since the next rounds come to it anyway. */
  #learn(endpoint: Endpoint, at: number): void {
    const text = formatEndpoint(endpoint)
    const isKnown = this.#targets.some(target => formatEndpoint(target) === text)
    if (isKnown || this.#targets.length >= targetsMax) return
    this.#targets.splice(at, 0, endpoint)
  }

  #result(grant: JoinGrant): JoinResult {
    const ofAuthority = new X509Certificate(grant.authority.certificate)
    const certificate = new X509Certificate(grant.certificate)
    const name = peerNameOf(certificate)
    const isOurs =
      certificate.publicKey.equals(createPublicKey(this.#keys.publicKey)) &&
      name?.clusterId === grant.clusterId &&
      name.nodeId === grant.nodeId &&
      isVouchedFor(certificate, ofAuthority, this.#options.wallMs())
    if (!isOurs || this.#pin?.equals(authorityHash(grant.authority.certificate)) !== true) {
      throw refused('the certificate that the cluster made for this node is not right')
    }
    const hash = this.#pin.toString('hex')
    return { ...grant, key: this.#keys.privateKey, authorityHash: hash }
  }

  async #try(target: Endpoint): Promise<Outcome> {
    this.#options.signal?.throwIfAborted()
    const connected = await connectTls({
      ...target,
      credentials: { authority: undefined, certificate: undefined, key: undefined },
      timeoutMs: connectTimeoutMs,
      check: () => undefined,
    })
    if (!connected.ok) {
      const { reason } = connected
      this.#tell(target, reason)
      return { kind: connected.isStranger ? 'wrong' : 'later', reason }
    }
    const outcome = await this.#talk(connected.link, target)
    connected.link.destroy()
    if (outcome.kind === 'later' || outcome.kind === 'wrong') this.#tell(target, outcome.reason)
    if (outcome.kind === 'no-leader') this.#tell(target, leaderless)
    return outcome
  }

  /** Once for each reason in a row. */
  #tell(endpoint: Endpoint, reason: string): void {
    const target = formatEndpoint(endpoint)
    if (this.#told.get(target) === reason) return
    this.#told.set(target, reason)
    this.#options.onProgress({ kind: 'trying', target, reason })
  }

  /** The conversation on one connection, to its end. */
  #talk(link: Link, target: Endpoint): Promise<Outcome> {
    const { signal } = this.#options
    return new Promise((resolve, reject) => {
      const abort = () => finish({ kind: 'later', reason: 'given up' })
      const finish = (outcome: Outcome) => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', abort)
        if (signal?.aborted === true) reject(signal.reason)
        else resolve(outcome)
      }
      const silent = () => finish({ kind: 'later', reason: 'it has gone silent' })
      const timer = setTimeout(silent, silentMsMax)
      signal?.addEventListener('abort', abort)
      const step = this.#steps(link, target)
      link.reader.sizeMax = joinFrameBytesMax
      link.end = {
        closed: reason => {
          finish({ kind: 'later', reason: reason ?? 'it closed the connection' })
        },
        frame: (kind, payload) => {
          timer.refresh()
          const outcome = step(kind, payload)
          if (outcome !== undefined) finish(outcome)
        },
      }
      link.write(jsonFrame(frameKinds.hello, this.#hello()))
    })
  }

  /** What each frame leads to; undefined: the conversation goes on. */
  #steps(link: Link, target: Endpoint) {
    let isGreeted = false
    let isVerified = false
    return (kind: FrameKind, payload: Uint8Array): Outcome | undefined => {
      if (kind === frameKinds.alive) return undefined
      const value = decodeJson(payload)?.value
      if (kind === frameKinds.refusal) {
        const reason = parseRefusal(value)?.message ?? 'it refused without a reason'
        // Before the authority is verified, it may be anybody who refuses.
        return { kind: isVerified || this.#pin === undefined ? 'refused' : 'wrong', reason }
      }
      if (kind === frameKinds.welcome && !isGreeted) {
        isGreeted = true
        // Whether the two fit was judged by the member, who knows the same as we do.
        return parseHello(value) === undefined ? stranger : undefined
      }
      if (kind === frameKinds.join && isGreeted && !isVerified) {
        const fault = this.#verify(link, value)
        if (fault !== undefined) return { kind: 'wrong', reason: fault }
        isVerified = true
        link.write(jsonFrame(frameKinds.join, this.#request()))
        return undefined
      }
      if (kind === frameKinds.progress && isVerified) return this.#progress(target, value)
      const grant = kind === frameKinds.joined && isVerified ? parseGrant(value) : undefined
      if (grant !== undefined) return { kind: 'granted', grant }
      return stranger
    }
  }

  /** Whether the one that we talk to is of the cluster that we want. A sentence if not. */
  #verify(link: Link, value: unknown): string | undefined {
    const { authority } = (value ?? {}) as Record<string, unknown>
    const pem = typeof authority === 'string' ? certificateFrom(authority) : undefined
    const certificate = link.peerCertificate
    if (pem === undefined || certificate === undefined) return 'it has no certificates of fnd'
    const { wallMs } = this.#options
    const hash = authorityHash(pem.toString())
    if (!isVouchedFor(certificate, pem, wallMs())) {
      return 'its certificate is not by its own authority, or out of date by the clock of this node'
    }
    this.#pin ??= hash
    if (this.#pin.equals(hash)) return undefined
    return this.#options.token === ''
      ? 'it is of another cluster than the member asked before'
      : 'it is of another cluster than the join token: check both addresses and token'
  }

  #progress(target: Endpoint, value: unknown): Outcome | undefined {
    const progress: JoinProgress | undefined = parseProgress(value)
    if (progress?.state === 'redirect') {
      return { kind: 'elsewhere', address: progress.address, token: progress.token }
    }
    if (progress?.state === 'no-leader') {
      return { kind: 'no-leader', addresses: progress.addresses }
    }
    if (progress?.state !== 'waiting') return { kind: 'wrong', reason: 'it says what is unknown' }
    // Computed here as well: what a person compares must not come from the other side.
    const key = createPublicKey(this.#keys.publicKey).export({ type: 'spki', format: 'der' })
    const fingerprint = joinFingerprint(key, this.#pin ?? Buffer.alloc(0))
    this.#deadlineMs = this.#patience()
    this.#options.onProgress({ kind: 'waiting', target: formatEndpoint(target), fingerprint })
    return undefined
  }

  #hello(): Hello {
    const { version, commandVersion, address, wallMs } = this.#options
    return {
      ...{ purpose: 'join', protocolMin, protocolMax, clusterId: '', nodeId: 0, groupId: 0 },
      ...{ incarnation: '', commandVersion, version, address, wallMs: Math.round(wallMs()) },
    }
  }

  #request(): JoinRequest {
    const { uuid, name, apiUrl, version, commandVersion, address } = this.#options
    const { publicKey } = this.#keys
    return { uuid, name, apiUrl, version, commandVersion, address, publicKey, token: this.#token }
  }

  /** Ends early, and without an error, when the attempt is given up: the next step throws. */
  #sleep(ms: number): Promise<void> {
    const { signal } = this.#options
    return new Promise(resolve => {
      const done = () => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', done)
        resolve()
      }
      const timer = setTimeout(done, ms)
      signal?.addEventListener('abort', done)
    })
  }
}

function refused(detail: string): FndError {
  return new FndError('join-refused', { detail })
}

/** Undefined when the text is no certificate. */
function certificateFrom(pem: string): X509Certificate | undefined {
  try {
    return new X509Certificate(pem)
  } catch (cause) {
    // The text is the other side's: whatever the parser dislikes, it is no certificate.
    if (cause instanceof Error) return undefined
    throw cause
  }
}
