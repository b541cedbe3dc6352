/**
 * Who this node is to be, when its data directory holds no log yet: the first of a new cluster, or
 * what the cluster that it joins makes of it. What the cluster shares is on the disk before the log
 * is, so that a crash between the two only joins once more, as the same node.
 */
import { randomUUID } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type ClusterConfig, type Place, placeText } from '../config-cluster.ts'
import { FndError, StartError } from '../errors.ts'
import type { Logger } from '../log.ts'
import type { Identity } from '../raft/ports.ts'
import { fsyncDir, makeDir, writeWhole } from '../store/fsync.ts'
import { clusterDir, writeClusterFiles } from './authority.ts'
import { clusterFilesOf, type JoinResult, type JoinStep, joinCluster } from './join-client.ts'
import { ownAddress } from './own-address.ts'

export interface EntryOptions {
  readonly dataDir: string
  readonly cluster: ClusterConfig
  /** Where this node's HTTP API is reached, given the host that others know it by. */
  readonly apiUrl: (host: string) => string
  readonly version: string
  readonly commandVersion: number
  readonly log: Logger
}

export interface Entry {
  readonly identity: Identity
  /** Where the peer port is to listen: fixed when others were told of it already. */
  readonly port: number
  /** Members to begin with, and what the new ones share. */
  readonly joined: JoinResult | undefined
}

/** Rejects with `StartError`. */
export async function enter(options: EntryOptions): Promise<Entry> {
  const { cluster, dataDir } = options
  const uuid = await ownUuid(dataDir)
  const { port } = cluster.peerListen
  if (cluster.join.length === 0) {
    return { identity: { clusterId: randomUUID(), nodeId: 1, uuid }, port, joined: undefined }
  }
  const told = port === 0 ? freePort(cluster.peerListen.host) : port
  const joined = await joinAs(options, uuid, told)
  await writeClusterFiles(dataDir, clusterFilesOf(joined))
  const { clusterId, nodeId } = joined
  return { identity: { clusterId, nodeId, uuid }, port: told, joined }
}

/** Made with the directory; the same when joining is tried again. */
async function ownUuid(dataDir: string): Promise<string> {
  const dir = clusterDir(dataDir)
  const path = join(dir, 'uuid')
  try {
    const found = readFileSync(path, 'utf8').trim()
    if (found !== '') return found
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw cause
  }
  const uuid = randomUUID()
  await makeDir(dir, 0o700)
  await writeWhole(path, `${uuid}\n`)
  await fsyncDir(dir)
  return uuid
}

/**
 * From here on the log holds it. Left behind, it would give a node whose log was removed and that
 * joins again the id of its former self, which has voted for what it does not remember.
 */
export async function forgetUuid(dataDir: string): Promise<void> {
  const dir = clusterDir(dataDir)
  const path = join(dir, 'uuid')
  if (!existsSync(path)) return
  await rm(path)
  await fsyncDir(dir)
}

/** Members are told of the port before it is listened on. */
function freePort(host: string): number {
  const probe = Bun.listen({ hostname: host, port: 0, socket: { data: () => undefined } })
  const { port } = probe
  probe.stop(true)
  return port
}

/** How others reach the peer port of this node. */
export async function advertised(
  cluster: ClusterConfig,
  port: number,
  target?: Place,
): Promise<Place> {
  const { advertise, peerListen } = cluster
  const host = advertise?.host ?? (await ownAddress(peerListen.host, target?.host))
  return { host, port: advertise === undefined || advertise.port === 0 ? port : advertise.port }
}

async function joinAs(options: EntryOptions, uuid: string, port: number): Promise<JoinResult> {
  const { cluster, version, commandVersion, apiUrl } = options
  const place = await advertised(cluster, port, cluster.join[0])
  try {
    return await joinCluster({
      targets: cluster.join,
      token: cluster.joinToken,
      uuid,
      name: cluster.name,
      apiUrl: apiUrl(place.host),
      address: placeText(place),
      version,
      commandVersion,
      wallMs: () => Date.now(),
      onProgress: step => tell(options.log, step),
    })
  } catch (cause) {
    if (!(cause instanceof FndError)) throw cause
    throw new StartError(`${cause.message}.`.replace(/\.\.$/, '.'), { cause })
  }
}

function tell(log: Logger, step: JoinStep): void {
  if (step.kind === 'trying') {
    log.warn({ target: step.target, reason: step.reason }, 'a member cannot be asked to join')
    return
  }
  const { fingerprint, target } = step
  log.warn({ target, fingerprint }, `waiting to be approved: fnd nodes approve ${fingerprint}`)
}
