/**
 * Composition of a node's place in its cluster: the store as a member of the group, the peers, who
 * belongs to them, and what travels between them. `node.ts` puts the rest around it.
 */
import { join } from 'node:path'
import { adoptAdminToken, ensureAdminToken } from './api/auth.ts'
import type { Backups } from './api/fnd/backup.ts'
import { systemClock } from './clock.ts'
import { Announcer } from './cluster/announcer.ts'
import { Authority } from './cluster/authority.ts'
import { BundleServer } from './cluster/bundle-serve.ts'
import { BundleSpread } from './cluster/bundle-spread.ts'
import { advertised, type Entry, enter, forgetUuid } from './cluster/entry.ts'
import { Forwarder } from './cluster/forward.ts'
import { Freshness } from './cluster/fresh.ts'
import { JoinServer } from './cluster/join-server.ts'
import { Members, type NodeRows } from './cluster/members.ts'
import { PeerWatch } from './cluster/peer-watch.ts'
import { ClusterPeers, type PeerEvents } from './cluster/peers.ts'
import { RaftLog } from './cluster/raft-log.ts'
import { Roll } from './cluster/roll.ts'
import { mustBeOfThisCluster, Seeker } from './cluster/seeker.ts'
import { SnapshotTransfer } from './cluster/snapshot-transfer.ts'
import { mintToken } from './cluster/token.ts'
import { addressRefusal, joinRefusal, upgradeRefusal } from './cluster/upgrade.ts'
import type { Config } from './config.ts'
import { placeText } from './config-cluster.ts'
import { FndError, StartError } from './errors.ts'
import type { Slices } from './exec/slices.ts'
import type { Logger } from './log.ts'
import { backupsOf } from './node-backup.ts'
import { noObserver, tellBoth } from './raft/observer.ts'
import type { Network } from './raft/ports.ts'
import { commandVersion, versionNeeded } from './store/codec.ts'
import type { Command, Outcome } from './store/commands.ts'
import { fsyncDir, writeWhole } from './store/fsync.ts'
import type { Node } from './store/objects.ts'
import { openStore, type Store } from './store/replica.ts'
import { SecretBox } from './store/secrets.ts'
import { framesOf } from './store/snapshot-frames.ts'
import { version } from './version.ts'
import type { RaftRecorder } from './watch/raft-recorder.ts'

export interface ClusterParts {
  readonly config: Config
  readonly log: Logger
  readonly recorder: RaftRecorder
  readonly slices: Slices
  readonly onFatal: (error: Error) => void
  /** No new calls; resolves when the running ones ended or had their time. */
  readonly drainCalls: () => Promise<void>
  /** This node is out of the cluster: it may end. */
  readonly onOut: () => void
  /** It was removed, and was not asked to leave: it is to end, and to say why. */
  readonly onExpelled: (reason: StartError) => void
}

export interface ClusterNode extends AsyncDisposable {
  readonly store: Store
  readonly secrets: SecretBox
  readonly backups: Backups
  readonly peers: ClusterPeers
  readonly members: Members
  readonly fresh: Freshness
  readonly spread: BundleSpread
  /** Where peers reach this node. */
  readonly address: string
  /** Tells the cluster where the HTTP API is, once that listens. */
  announce(apiUrl: string): void
  /** Hands leadership over, if it is here and another can lead. */
  handOver(): Promise<void>
}

/** Ticks of the shortest election timeout, and between heartbeats. */
const electionTick = 20
const heartbeatTick = 2
const peerWatchMs = 1000
const bundlePrefix = 'bundle:'

export async function openCluster(parts: ClusterParts): Promise<ClusterNode> {
  const { config, log } = parts
  await using opening = new AsyncDisposableStack()
  const late: { peers?: ClusterPeers; transfer?: SnapshotTransfer; forward?: Forwarder } = {}
  const entered: { entry?: Entry } = {}
  const store = opening.use(await openMember(parts, late, entered))
  const secrets = new SecretBox(config.dataDir)
  const { clusterId, nodeId } = store.identity
  const { dataDir } = config
  await mustBeOfThisCluster(config, store.identity, store.state.nodes())
  const authority = await Authority.open({
    ...{ dataDir, clusterId, nodeId, wallMs: () => Date.now() },
    isFirst: store.state.nodes().every(({ id }) => id === nodeId),
  })
  opening.defer(() => authority.stop())
  const roll = new Roll(store, (entered.entry?.joined?.nodes ?? []) as Node[])
  const port = entered.entry?.port ?? config.cluster.peerListen.port
  const place = await advertised(config.cluster, port, config.cluster.join[0])
  const handlers = { calls: {}, uploads: {}, downloads: {} }
  // It may have learnt of its removal before it ended.
  if (roll.isRemoved(nodeId)) throw new StartError(removedText(nodeId))
  const turnedAway = makeTurnedAway(parts, store, () => made.members)
  const events = eventsOf(parts, store, roll, { joins: () => joins, turnedAway })
  const peers = listenToPeers({ config, store, authority, handlers, events, port, place })
  opening.defer(() => peers.stop())
  const joins = makeJoins({ store, authority, secrets, peers, config, log })
  opening.defer(() => joins.stop())
  const made = makeMembership({ parts, store, peers, joins, authority })
  const transfer = new SnapshotTransfer({
    nodeId,
    peers,
    take: () => store.snapshots.take(),
    framesOf,
    staging: store.staging,
    observer: observerOf(parts),
    receive: messages => store.member.receive(messages),
    onFailure: (to, error) => log.warn({ node: to, err: error }, 'a snapshot was not sent'),
  })
  opening.defer(() => transfer.close())
  const bundleServer = opening.use(new BundleServer(store.bundles))
  const spread = opening.use(makeSpread(store, peers, log))
  opening.use(made.members)
  for (const each of [bundleServer.handlers, transfer.handlers()]) {
    Object.assign(handlers.calls, each.calls)
    Object.assign(handlers.uploads, each.uploads)
    Object.assign(handlers.downloads, each.downloads)
  }
  Object.assign(handlers.calls, made.members.calls, made.forward.calls)
  Object.assign(late, { peers, transfer, forward: made.forward })
  roll.tell(peers)
  authority.keepFresh(
    credentials => peers.renew(credentials),
    error => log.error({ err: error }, 'the certificate of this node could not be renewed'),
  )
  const watching = watchPeers(parts, peers)
  opening.defer(() => clearInterval(watching))
  opening.use(makeSeeker(config, store, authority, peers))
  await store.start()
  const announcer = new Announcer(nodeId, store.state, () =>
    store.member.status().confState.voters.includes(nodeId),
  )
  opening.defer(() => announcer.stop())
  const resources = opening.move()
  return {
    ...{ store, secrets, peers, spread, members: made.members, fresh: made.fresh },
    backups: backupsOf({ dataDir, store, secrets, spread, log }),
    address: peers.address,
    announce: apiUrl =>
      announcer.announce({
        ...{ uuid: store.identity.uuid, name: config.cluster.name, apiUrl, version },
        ...{ commandVersion, peerAddress: peers.address },
      }),
    handOver: () => handOver(store, made.members),
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  }
}

function observerOf({ recorder, config, log }: ClusterParts) {
  const heartbeatGapMs = config.cluster.electionTimeoutMs / 3
  return tellBoth(recorder, new RaftLog({ log, clock: systemClock, heartbeatGapMs }))
}

async function openMember(
  parts: ClusterParts,
  late: { peers?: ClusterPeers; transfer?: SnapshotTransfer; forward?: Forwarder },
  entered: { entry?: Entry },
): Promise<Store> {
  const { config, log, onFatal } = parts
  const network: Network = {
    send: messages => late.peers?.send(messages),
    sendSnapshot: (message, done) => {
      if (late.transfer === undefined) done(false)
      else late.transfer.send(message, done)
    },
  }
  const store = await openStore({
    dataDir: config.dataDir,
    onFatal,
    network,
    observer: tellBoth(observerOf(parts), { ...noObserver, fsync: () => parts.slices.shorten() }),
    limits: {
      tickMs: config.cluster.electionTimeoutMs / electionTick,
      electionTick,
      heartbeatTick,
    },
    propose: command => {
      if (late.forward === undefined) throw new FndError('no-leader')
      return late.forward.propose(command)
    },
    identity: async dataDir => {
      const { cluster } = config
      const apiUrl = (host: string) => apiUrlOf(config, host)
      const entry = await enter({ dataDir, cluster, apiUrl, version, commandVersion, log })
      if (entry.joined !== undefined) await adopt(dataDir, entry.joined)
      entered.entry = entry
      return entry.identity
    },
  })
  await forgetUuid(config.dataDir)
  return store
}

/** What all nodes of a cluster share, and a joiner was given. */
async function adopt(
  dataDir: string,
  joined: { readonly adminToken: string; readonly secretsKey: string },
): Promise<void> {
  await adoptAdminToken(dataDir, joined.adminToken)
  if (joined.secretsKey !== '') {
    await writeWhole(join(dataDir, 'secrets.key'), Buffer.from(joined.secretsKey, 'base64'))
  }
  await fsyncDir(dataDir)
}

function apiUrlOf(config: Config, host: string): string {
  if (config.publicUrl !== '') return config.publicUrl
  const isAny = config.host === '0.0.0.0' || config.host === '::'
  return `http://${placeText({ host: isAny ? host : config.host, port: config.port })}`
}

function removedText(nodeId: number): string {
  return (
    `Node ${nodeId} was removed from the cluster and cannot come back under its id: empty ` +
    'its data directory and start it with --join.'
  )
}

/** What to do when another node says that this one was removed. */
function makeTurnedAway(
  { onExpelled }: ClusterParts,
  { identity, state }: Store,
  members: () => Members,
): (message: string) => void {
  // Whoever left before is to be told why it cannot start, though it still means to leave.
  const hadLeft = state.node(identity.nodeId)?.state === 'leaving'
  return message => {
    members().turnedAway()
    if (hadLeft || !members().isDeparting) onExpelled(new StartError(message))
  }
}

function eventsOf(
  { log, onFatal }: ClusterParts,
  store: Store,
  roll: Roll,
  on: { readonly joins: () => JoinServer; readonly turnedAway: (message: string) => void },
): PeerEvents {
  return {
    messages: (_from, messages) => store.member.receive(messages),
    unreachable: nodeId => store.member.unreachable(nodeId),
    admit: nodeId => {
      if (!roll.isRemoved(nodeId)) return undefined
      return { code: 'not-member', message: removedText(nodeId) }
    },
    hello: (nodeId, hello) => roll.met(nodeId, hello.address),
    problem: (node, reason, refusal) => {
      if (refusal === undefined) log.warn({ node, reason }, 'a node cannot be reached')
      else log.error({ node, refusal: refusal.code }, refusal.message)
      if (refusal?.code === 'not-member') on.turnedAway(refusal.message)
    },
    refused: (refusal, hello, remoteAddress) =>
      log.warn({ node: hello.nodeId, remoteAddress, refusal: refusal.code }, refusal.message),
    skew: (node, skewMs) =>
      log.warn({ node, skewMs }, 'the clocks of two nodes differ: set them, for example by NTP'),
    joiner: (link, hello) => on.joins().serve(link, hello),
    bug: error => onFatal(error as Error),
  }
}

function listenToPeers(parts: {
  readonly config: Config
  readonly store: Store
  readonly authority: Authority
  readonly handlers: ConstructorParameters<typeof ClusterPeers>[0]['handlers']
  readonly events: PeerEvents
  readonly port: number
  readonly place: { readonly host: string; readonly port: number }
}): ClusterPeers {
  const { config, store, authority, handlers, events, port, place } = parts
  const { clusterId, nodeId } = store.identity
  const { host } = config.cluster.peerListen
  try {
    return new ClusterPeers({
      ...{ clusterId, nodeId, commandVersion, version, handlers, events, host, port },
      groupId: 1,
      incarnation: crypto.randomUUID(),
      credentials: authority.credentials,
      advertise: bound => placeText({ ...place, port: place.port === 0 ? bound : place.port }),
      wallMs: () => Date.now(),
      random: () => Math.random(),
    })
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw cause
    throw new StartError(
      `The peer port ${placeText({ host, port })} is in use. Give another one with --peer-listen.`,
      { cause },
    )
  }
}

function makeJoins(parts: {
  readonly store: Store
  readonly authority: Authority
  readonly secrets: SecretBox
  readonly peers: ClusterPeers
  readonly config: Config
  readonly log: Logger
}): JoinServer {
  const { store, authority, secrets, peers, config, log } = parts
  const { clusterId, nodeId } = store.identity
  return new JoinServer({
    ...{ clusterId, authority, wallMs: () => Date.now() },
    leader: () => {
      const { lead } = store.member
      if (lead === nodeId) return { kind: 'self' }
      const address = peers.states().find(({ id }) => id === lead)?.address
      return address === undefined ? { kind: 'none' } : { kind: 'other', address }
    },
    addresses: () => store.state.nodes().map(({ peerAddress }) => peerAddress),
    propose: async request => {
      // Ids are counted from 1, and that one is this node's.
      if (store.state.node(nodeId) === undefined) throw new FndError('no-leader')
      const { uuid, name, apiUrl, version: theirs, commandVersion: known, address } = request
      const view = { clusterVersion: store.state.clusterVersion(), nodes: store.state.nodes() }
      const isThere = (id: number) =>
        id === nodeId || peers.states().some(peer => peer.id === id && peer.isConnected)
      const refusal = joinRefusal(known, view) ?? addressRefusal(request, view.nodes, isThere)
      if (refusal !== undefined) throw new FndError('join-refused', { detail: refusal })
      const fields = { uuid, name, apiUrl, version: theirs, commandVersion: known }
      const join = { ...fields, peerAddress: address, atMs: Date.now() }
      const { outcome } = await store.propose({ type: 'node.join', ...join })
      const joined = mustNode(outcome)
      log.info({ node: joined.id, name: joined.name, address }, 'a node joins')
      return { nodeId: joined.id, nodes: store.state.nodes() }
    },
    secrets: async () => ({
      adminToken: ensureAdminToken(config.dataDir),
      secretsKey: secrets.shared(),
    }),
    onPending: ({ fingerprint, name, remoteAddress }) =>
      log.warn(
        { fingerprint, name, remoteAddress },
        `a node asks to join: fnd nodes approve ${fingerprint}`,
      ),
    onBug: error => {
      throw error
    },
  })
}

function mustNode(outcome: Outcome): Node {
  if (!outcome.ok) throw new FndError(outcome.code)
  const { object } = outcome
  if (object === null || !('peerAddress' in object)) throw new FndError('internal')
  return object
}

function makeMembership(made: {
  readonly parts: ClusterParts
  readonly store: Store
  readonly peers: ClusterPeers
  readonly joins: JoinServer
  readonly authority: Authority
}) {
  const { parts, store, peers, joins, authority } = made
  const { config, log } = parts
  const { electionTimeoutMs, name } = config.cluster
  const { clusterId, nodeId } = store.identity
  const { member, group } = store
  const propose = (command: Command) =>
    store.propose(command).catch(error => {
      const isPending = error instanceof FndError && error.code === 'upgrade-pending'
      throw isPending ? holdouts(store, command, error) : error
    })
  // A disk without room keeps this node from leading, and perhaps the others as well.
  const whyLeaderless = () =>
    member.isStarved ? new FndError('disk-full') : members.whyLeaderless()
  const forward = new Forwarder({
    nodeId,
    peers,
    electionTimeoutMs,
    nowMs: () => Date.now(),
    whyLeaderless,
    member: {
      propose,
      get lead() {
        return member.lead
      },
      get appliedIndex() {
        return member.appliedIndex
      },
      tellCommit: () => member.tellCommit(),
      onChange: listener => member.onChange(listener),
    },
  })
  const members = new Members({
    ...{ nodeId, clusterId, name, peers, log, config: config.cluster },
    raft: {
      status: () => member.status(),
      isStarved: () => member.isStarved,
      transfer: to => member.transfer(to),
      proposeConf: change => group.proposeConf(change),
    },
    rows: rowsOf(store, forward),
    joins: {
      pending: () => joins.pending(),
      approve: fingerprint => joins.approve(fingerprint),
      mint: lifeMs => {
        const expiresMs = Date.now() + lifeMs
        return { token: mintToken(authority.pair, expiresMs), expiresMs, address: peers.address }
      },
    },
    monotonicMs: () => performance.now(),
    drainCalls: parts.drainCalls,
    onOut: parts.onOut,
  })
  const fresh = new Freshness({ member, electionTimeoutMs, whyLeaderless })
  return { forward, members, fresh }
}

/** The same refusal, which names the nodes that hold the command back. */
function holdouts({ state }: Store, command: Command, refusal: FndError): FndError {
  const view = { clusterVersion: state.clusterVersion(), nodes: state.nodes() }
  return upgradeRefusal(versionNeeded(command), view) ?? refusal
}

function rowsOf(store: Store, forward: Forwarder): NodeRows {
  const { state } = store
  let nodes: readonly Node[] | undefined
  store.onNodes(() => {
    nodes = undefined
  })
  const change = async (command: Command): Promise<void> => {
    const outcome = await forward.propose(command)
    if (!outcome.ok) throw new FndError(outcome.code)
  }
  return {
    nodes: () => {
      nodes ??= state.nodes()
      return nodes
    },
    get commandVersion() {
      return state.clusterVersion()
    },
    setState: (id, wanted) =>
      change({ type: 'node.update', id, atMs: Date.now(), patch: { state: wanted } }),
    removeRow: id => change({ type: 'node.remove', id }),
    raiseVersion: to => change({ type: 'cluster.version', version: to }),
  }
}

function makeSeeker(config: Config, store: Store, authority: Authority, peers: ClusterPeers) {
  return new Seeker({
    targets: config.cluster.join,
    clusterId: store.identity.clusterId,
    authority: authority.pair.certificate,
    isLost: () => store.member.lead === 0,
    peers,
  })
}

function makeSpread(store: Store, peers: ClusterPeers, log: Logger): BundleSpread {
  return new BundleSpread({
    bundles: store.bundles,
    peers,
    view: () => ({ self: store.identity.nodeId, conf: store.member.status().confState }),
    referenced: () => referencedBundles(store),
    log,
  })
}

/** Hashes of the bundles that functions refer to. */
export function referencedBundles(store: Store): ReadonlySet<string> {
  const hashes = new Set<string>()
  for (const { fn } of store.routes.all()) {
    if (fn.image.startsWith(bundlePrefix)) hashes.add(fn.image.slice(bundlePrefix.length))
  }
  return hashes
}

function watchPeers({ log, recorder }: ClusterParts, peers: ClusterPeers) {
  const watch = new PeerWatch({
    states: () => peers.states(),
    log,
    rtt: (peer, ms) => recorder.rtt(peer, ms),
    forget: peer => recorder.forgetPeer(peer),
  })
  return setInterval(() => watch.look(), peerWatchMs)
}

async function handOver(store: Store, members: Members): Promise<void> {
  const { role, confState } = store.member.status()
  if (role !== 'leader' || confState.voters.length < 2) return
  try {
    await members.transfer(undefined)
  } catch (error) {
    // Nobody can take it: then the others elect somebody when this node is gone.
    if (!(error instanceof FndError)) throw error
  }
}
