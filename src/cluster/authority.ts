/**
 * The cluster's authority and this node's certificate on the disk, `<data>/cluster`. All members
 * hold the authority's key, so each renews its own certificate, at two thirds of its life. Files
 * are replaced as wholes. A start after a crash between two of them finds a pair that does not
 * fit, and makes what can be made again.
 */
import { createPrivateKey, createPublicKey, X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { StartError } from '../errors.ts'
import { fsyncDir, makeDir, writeWhole } from '../store/fsync.ts'
import {
  type AuthorityPair,
  issueNode,
  makeAuthority,
  makeKeyPair,
  nodeLifeMsDefault,
} from './certificates.ts'
import { isInForce, isVouchedFor, type PeerName, peerNameOf } from './identity.ts'
import type { Credentials } from './transport.ts'

const fileNames = {
  authority: 'ca.crt',
  authorityKey: 'ca.key',
  certificate: 'node.crt',
  key: 'node.key',
} as const

/** PEM texts. */
export type ClusterFiles = Readonly<Record<keyof typeof fileNames, string>>

/** Looked at that often whether it is time to renew, at most. */
const renewCheckMsMax = 60 * 60 * 1000

/** Writes what is given; each file is whole or absent, and on the disk when this resolves. */
export async function writeClusterFiles(
  dataDir: string,
  files: Partial<ClusterFiles>,
): Promise<void> {
  const dir = clusterDir(dataDir)
  await makeDir(dir, 0o700)
  // At the same time, since a first start waits for it: no order of theirs is relied on.
  const pathOf = (name: string) => join(dir, fileNames[name as keyof ClusterFiles])
  await Promise.all(Object.entries(files).map(([name, text]) => writeWhole(pathOf(name), text)))
  await fsyncDir(dir)
}

/** For a directory that becomes another cluster's by recovery; what else is there stays. */
export async function removeClusterFiles(dataDir: string): Promise<void> {
  const dir = clusterDir(dataDir)
  await makeDir(dir, 0o700)
  for (const name of Object.values(fileNames)) await rm(join(dir, name), { force: true })
  await fsyncDir(dir)
}

export function clusterDir(dataDir: string): string {
  return join(dataDir, 'cluster')
}

function readFile(dataDir: string, name: keyof ClusterFiles): string | undefined {
  try {
    return readFileSync(join(clusterDir(dataDir), fileNames[name]), 'utf8')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw cause
  }
}

export interface AuthorityOptions extends PeerName {
  readonly dataDir: string
  readonly wallMs: () => number
  /** Of a node's certificate. */
  readonly lifeMs?: number
  /** Makes a new authority where there is none: only for the first node of a cluster. */
  readonly isFirst: boolean
}

export class Authority {
  readonly #options: AuthorityOptions
  readonly #lifeMs: number
  readonly #pair: AuthorityPair
  #certificate: string
  #key: string
  #timer: Timer | undefined

  private constructor(options: AuthorityOptions, files: ClusterFiles) {
    this.#options = options
    this.#lifeMs = options.lifeMs ?? nodeLifeMsDefault
    this.#pair = { certificate: files.authority, key: files.authorityKey }
    this.#certificate = files.certificate
    this.#key = files.key
  }

  /**
   * Reads the files, and makes what is missing, out of date or does not fit. Throws `StartError`
   * when they are of another cluster, or gone from a node that is not the first.
   */
  static async open(options: AuthorityOptions): Promise<Authority> {
    const { dataDir, clusterId, nodeId, wallMs } = options
    const found = readAuthority(options)
    const pair = found ?? (await firstAuthority(options))
    const certificate = readFile(dataDir, 'certificate')
    const key = readFile(dataDir, 'key')
    const files = { authority: pair.certificate, authorityKey: pair.key }
    if (certificate !== undefined && key !== undefined) {
      const name = isPair(certificate, key) ? peerNameOf(new X509Certificate(certificate)) : null
      const authority = new X509Certificate(pair.certificate)
      const isRight =
        name?.clusterId === clusterId &&
        name.nodeId === nodeId &&
        isVouchedFor(new X509Certificate(certificate), authority, wallMs())
      if (isRight) return new Authority(options, { ...files, certificate, key })
    }
    const authority = new Authority(options, { ...files, certificate: '', key: '' })
    await authority.#renew(found === undefined ? pair : undefined)
    return authority
  }

  /** What this node shows to others. */
  get credentials(): Credentials {
    return { authority: this.#pair.certificate, certificate: this.#certificate, key: this.#key }
  }

  /** With the key: for nodes that join, and for nothing else. */
  get pair(): AuthorityPair {
    return this.#pair
  }

  /** When the certificate of this node ends, on the wall clock. */
  get expiresMs(): number {
    return Date.parse(new X509Certificate(this.#certificate).validTo)
  }

  /** A certificate for a node that joins. Throws when the key is none that fits. */
  issue(nodeId: number, publicKey: string): Promise<string> {
    const { clusterId, wallMs } = this.#options
    const request = { clusterId, nodeId, publicKey, nowMs: wallMs(), lifeMs: this.#lifeMs }
    return issueNode(this.#pair, request)
  }

  /** A new key and certificate, on the disk before they are used. */
  renew(): Promise<void> {
    return this.#renew(undefined)
  }

  /** `made`: an authority that is not on the disk yet. It has signed nothing else before it is. */
  async #renew(made: AuthorityPair | undefined): Promise<void> {
    const { publicKey, privateKey } = makeKeyPair()
    const certificate = await this.issue(this.#options.nodeId, publicKey)
    await writeClusterFiles(this.#options.dataDir, {
      ...(made === undefined ? {} : { authority: made.certificate, authorityKey: made.key }),
      ...{ certificate, key: privateKey },
    })
    this.#certificate = certificate
    this.#key = privateKey
  }

  /**
   * Renews from time to time. `onRenewed` takes the new certificate into use; `onError` hears of
   * a renewal that failed, which is tried again.
   */
  keepFresh(
    onRenewed: (credentials: Credentials) => Promise<void>,
    onError: (error: unknown) => void,
  ): void {
    const check = async () => {
      if (this.#options.wallMs() < this.expiresMs - this.#lifeMs / 3) return
      await this.renew()
      await onRenewed(this.credentials)
    }
    const everyMs = Math.min(this.#lifeMs / 30, renewCheckMsMax)
    let isChecking = false
    this.#timer = setInterval(() => {
      if (isChecking) return
      isChecking = true
      void check()
        .catch(onError)
        .finally(() => {
          isChecking = false
        })
    }, everyMs)
    this.#timer.unref()
  }

  stop(): void {
    clearInterval(this.#timer)
  }
}

function isPair(certificate: string, key: string): boolean {
  const ofCertificate = new X509Certificate(certificate).publicKey
  const ofKey = createPublicKey(createPrivateKey(key))
  return ofCertificate.equals(ofKey)
}

/** Undefined when there is none yet. */
function readAuthority(options: AuthorityOptions): AuthorityPair | undefined {
  const { dataDir, clusterId, wallMs } = options
  const certificate = readFile(dataDir, 'authority')
  const key = readFile(dataDir, 'authorityKey')
  if (certificate === undefined || key === undefined) return undefined
  const dir = clusterDir(dataDir)
  const parsed = new X509Certificate(certificate)
  if (!isPair(certificate, key)) {
    throw new StartError(
      `${dir}: ca.crt and ca.key do not belong together. Copy both from another member, ` +
        'or empty the data directory and join again.',
    )
  }
  if (parsed.subject !== `CN=fnd cluster ${clusterId}`) {
    throw new StartError(
      `${dir}/ca.crt is the authority of another cluster than ${clusterId}, whose data this ` +
        'directory holds. If fnd recover broke off here, run it again; else restore the data ' +
        'directory as a whole, or empty it and join again.',
    )
  }
  if (!isInForce(parsed, wallMs())) {
    throw new StartError(
      `By the clock of this machine (${new Date(wallMs()).toISOString()}) the authority in ` +
        `${dir}/ca.crt is not in force. Set the clock.`,
    )
  }
  return { certificate, key }
}

async function firstAuthority(options: AuthorityOptions): Promise<AuthorityPair> {
  const { dataDir, clusterId, isFirst, wallMs } = options
  if (!isFirst) {
    throw new StartError(
      `${clusterDir(dataDir)} lacks ca.crt or ca.key, without which no other member speaks with ` +
        'this one. Copy both from another member, or empty the data directory and join again.',
    )
  }
  return await makeAuthority(clusterId, wallMs())
}
