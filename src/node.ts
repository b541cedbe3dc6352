/** The composition root: the one place that sees every part, and puts them together. */
import { randomBytes } from 'node:crypto'
import { availableParallelism } from 'node:os'
import { ensureAdminToken } from './api/auth.ts'
import { pastRouter } from './api/direct.ts'
import { makeUnexpected } from './api/errors.ts'
import { directGateway, gatewayApi } from './api/gateway.ts'
import { healthApi, type ReadyCheck } from './api/health.ts'
import { directInvoke, invokeApi } from './api/invoke.ts'
import { logsApi } from './api/logs.ts'
import { metricsApi } from './api/metrics.ts'
import { makeApi } from './api/server.ts'
import { systemClock } from './clock.ts'
import { type Config, requestHeaderBytesDefault } from './config.ts'
import { type AssertionError, FndError, StartError } from './errors.ts'
import { type DockerParts, openDocker } from './exec/docker/open.ts'
import type { AppCredentials } from './exec/docker/registry-auth.ts'
import type { Driver, FnSpec } from './exec/driver.ts'
import { Cores, memoryMbFor } from './exec/host.ts'
import { InstanceWatch } from './exec/instance-watch.ts'
import { CallCounter, type CodeSource, Invocations } from './exec/invocations.ts'
import { CallOutput } from './exec/output.ts'
import { ProcessDriver } from './exec/process.ts'
import { Runner } from './exec/runner.ts'
import { Slices } from './exec/slices.ts'
import { specOf } from './exec/spec.ts'
import { SyslogSender } from './exec/syslog.ts'
import { IdSource } from './ids.ts'
import type { Logger } from './log.ts'
import { type ClusterNode, openCluster, referencedBundles } from './node-cluster.ts'
import { makeReports } from './reports.ts'
import { announceServer } from './servers.ts'
import { ownerOfLogin } from './store/objects.ts'
import type { Store } from './store/replica.ts'
import type { SecretBox } from './store/secrets.ts'
import { fnSettings } from './store/settings.ts'
import type { FnRoute } from './store/state.ts'
import { commit, version } from './version.ts'
import { DiskSpace } from './watch/disk.ts'
import { Metrics } from './watch/metrics.ts'

export interface FndNode extends AsyncDisposable {
  /** Where it answers, for people on this machine. */
  readonly url: string
  /** Finishes running calls, stops everything. Idempotent. */
  stop(): Promise<void>
  /** Settles when it has stopped, by `stop` or because it had to. */
  readonly closed: Promise<void>
}

/** What the cluster may ask for before there is something to end. */
class Ending {
  drainCalls = () => Promise.resolve()
  readonly #asked = Promise.withResolvers<StartError | undefined>()

  /** Of the first that asked: undefined when all is well. */
  get reason(): Promise<StartError | undefined> {
    return this.#asked.promise
  }

  ask(reason?: StartError): void {
    this.#asked.resolve(reason)
  }
}

const bundleGraceMs = 3_600_000
/** What a spare worker holds, with slack; its memory is not a function's to use. */
const spareMb = 24
const collectEveryMs = 3_600_000
const bundlePrefix = 'bundle:'

export async function startNode(config: Config, log: Logger): Promise<FndNode> {
  await using opening = new AsyncDisposableStack()
  const metrics = new Metrics({ clock: systemClock, version, commit })
  const ending = new Ending()
  const slices = opening.use(new Slices())
  const cluster = opening.use(
    await openCluster({
      ...{ config, log, onFatal: makeOnFatal(log), recorder: metrics.raft, slices },
      drainCalls: () => ending.drainCalls(),
      onOut: () => ending.ask(),
      onExpelled: reason => ending.ask(reason),
    }),
  )
  const { store, secrets, spread } = cluster
  const token = config.isAuthOff ? '' : ensureAdminToken(config.dataDir)
  const ids = newIdSource()
  const output = new CallOutput({ limits: config.limits, clock: systemClock, logger: log })
  // Before the driver, so that it ends after the last instance has.
  const syslog = opening.use(new SyslogSender({ logger: log }))
  const driver = opening.use(
    await ProcessDriver.open({
      dataDir: config.dataDir,
      config: config.exec,
      version,
      bundles: spread,
      output,
      onSparesGivenUp: detail => log.warn({ detail }, 'no spare workers: starts take longer'),
    }),
  )
  const docker = opening.use(dockerFor(config, store, { ids, output, syslog, secrets, log }))
  const drivers = [driver, docker.driver]
  const parts = makeExec(config, cluster, { ids, output, syslog, drivers, metrics, log })
  const state = { isDraining: false }
  await limitRequestHeads(config.limits.requestHeaderBytesMax)
  const shared = { ids, output, syslog, driver, docker, secrets, metrics, token, state, cluster }
  const server = listen(config, log, store, { ...parts, ...shared })
  const url = urlOf(config.host, server.port ?? config.port)
  cluster.announce(publicUrlOf(config, cluster.address, server.port ?? config.port))
  const { stateDir, dataDir } = config
  const withdraw = announceServer(stateDir, { url, dataDir, pid: process.pid })
  beginWith(cluster, parts.invocations)
  const collecting = setInterval(() => void collectBundles(store, log), collectEveryMs)
  tellStart(log, config, cluster, { url, isolation: driver.isolation().level })
  opening.adopt(withdraw, remove => remove())
  const resources = opening.move()
  const closed = Promise.withResolvers<void>()
  let stopping: Promise<void> | undefined
  let fault: StartError | undefined
  const stop = (): Promise<void> => {
    stopping ??= (async () => {
      state.isDraining = true
      clearInterval(collecting)
      await cluster.handOver()
      // New connections are refused at once; open ones finish what they are at.
      const drained = server.stop()
      await parts.runner.drain(config.limits.drainMs)
      await Promise.race([drained, Bun.sleep(lastAnswersMs)])
      await server.stop(true)
      await resources.disposeAsync()
    })()
    stopping.then(
      () => (fault === undefined ? closed.resolve() : closed.reject(fault)),
      closed.reject,
    )
    return stopping
  }
  void ending.reason.then(reason => {
    fault = reason
    // A failure to stop shows in `closed`.
    stop().catch(() => undefined)
  })
  ending.drainCalls = () => {
    state.isDraining = true
    return parts.runner.drain(config.limits.drainMs)
  }
  return { url, stop, closed: closed.promise, [Symbol.asyncDispose]: stop }
}

function tellStart(
  log: Logger,
  config: Config,
  { store, address }: ClusterNode,
  { url, isolation }: { readonly url: string; readonly isolation: string },
): void {
  log.info(
    {
      ...{ version, commit, url, data: config.dataDir, isolation },
      ...{ node: store.identity.nodeId, cluster: store.identity.clusterId, peers: address },
    },
    `fnd listens on ${url}`,
  )
  if (config.isAuthOff) {
    log.warn('no admin token is asked for: anything on this machine may administer, functions too')
  }
}

function makeOnFatal(log: Logger): (error: Error) => void {
  return error => {
    log.fatal({ err: error }, 'fnd cannot go on')
    process.exit(1)
  }
}

function dockerFor(
  config: Config,
  store: Store,
  parts: Pick<ExecParts, 'ids' | 'output' | 'syslog' | 'log'> & { readonly secrets: SecretBox },
): DockerParts {
  const { clusterId, uuid } = store.identity
  return openDocker({
    dataDir: config.dataDir,
    nodeId: `${clusterId}-${uuid}`,
    config: config.docker,
    limits: config.exec,
    answerLimits: {
      headBytesMax: config.limits.responseHeaderBytesMax,
      bodyBytesMax: config.limits.responseBytesMax,
    },
    output: parts.output,
    checkSyslog: url => parts.syslog.check(url),
    newId: () => parts.ids.next(),
    clock: systemClock,
    credentials: appId => credentialsOf(appId, store, parts.secrets),
    log: parts.log,
  })
}

/** After the last call ended its answer may still be on its way out. */
const lastAnswersMs = 1000

/** Bun has one limit for the process, set through `node:http`, which takes time to load. */
async function limitRequestHeads(bytesMax: number): Promise<void> {
  if (bytesMax === requestHeaderBytesDefault) return
  const http: { maxHeaderSize: number } = (await import('node:http')).default
  http.maxHeaderSize = bytesMax
}

function newIdSource(): IdSource {
  const random = randomBytes(10)
  return new IdSource(systemClock, {
    machine: random.readBigUInt64BE(0) >> 16n,
    counter: random.readUInt32BE(6),
  })
}

/** Throws `FndError` when the key that sealed them is not there any more. */
function credentialsOf(appId: string, store: Store, secrets: SecretBox): AppCredentials {
  return store.state.registries(appId).map(login => {
    const { host, username, sealed } = login
    const secret = openedWith(secrets, sealed, ownerOfLogin(login))
    if (secret === undefined) {
      const detail = `those for ${host} were sealed with another secrets.key; set them again`
      throw new FndError('credentials-unreadable', { detail })
    }
    const { password, identityToken } = JSON.parse(secret)
    const fingerprint = secrets.fingerprint(JSON.stringify([host, username, secret]))
    return { host, username, password, identityToken, fingerprint }
  })
}

/** A key that was damaged while fnd runs fails the starts that need it. */
function openedWith(secrets: SecretBox, sealed: string, owner: string): string | undefined {
  try {
    return secrets.open(sealed, owner)
  } catch (cause) {
    if (!(cause instanceof StartError)) throw cause
    throw new FndError('credentials-unreadable', { detail: cause.message, cause })
  }
}

interface ExecParts {
  readonly ids: IdSource
  readonly output: CallOutput
  readonly syslog: SyslogSender
  readonly drivers: readonly Driver[]
  readonly metrics: Metrics
  readonly log: Logger
}

function makeExec(config: Config, { store, spread }: ClusterNode, parts: ExecParts) {
  const { ids, output, syslog, drivers, metrics, log } = parts
  const cpus = availableParallelism()
  const counter = new CallCounter(spec => metrics.fn(spec))
  const watch = new InstanceWatch(output, syslog, log)
  const cores = new Cores()
  const runner = new Runner({
    clock: systemClock,
    ids,
    drivers,
    pool: {
      memoryMbMax: memoryMbFor(config.exec.memoryBytesMax, config.exec.spareWorkers * spareMb),
      startsMax: config.exec.startsMax === 0 ? 2 * cpus : config.exec.startsMax,
      cpus,
      waitingPerFnMax: config.limits.waitingPerFnMax,
      waitingMax: config.limits.waitingMax,
      waitMs: config.limits.waitMs,
    },
    headBytesMax: config.limits.responseHeaderBytesMax,
    bodyBytesMax: config.limits.responseBytesMax,
    isSaturated: () => cores.look(),
    calls: counter,
    instances: watch,
  })
  const { pauseAfterMs } = config.docker
  const specOf = (route: FnRoute) => specOfRoute(route, store, pauseAfterMs)
  const code: CodeSource = {
    isHere: route => isBundleHere(route, store),
    bring: route => spread.ensure(bundleOf(route) ?? ''),
    heldMax: config.limits.waitingMax,
    waitMs: config.limits.waitMs,
  }
  const invocations = new Invocations({ runner, specOf, code })
  store.bundles.onStored(() => invocations.codeArrived())
  store.routes.onChange(({ fnId, before, after }) => {
    const hash = after === undefined ? undefined : bundleOf(after)
    if (hash !== undefined) spread.want(hash)
    invocations.routeChanged(fnId, after)
    if (after === undefined && before !== undefined) {
      metrics.forgetFn(fnId)
      counter.forget(fnId)
      output.forgetFn(fnId)
    }
  })
  return { runner, invocations, watch }
}

/** With the functions that there are at the start. */
function beginWith({ store, spread }: ClusterNode, invocations: Invocations): void {
  for (const route of store.routes.all()) {
    const hash = bundleOf(route)
    if (hash !== undefined) spread.want(hash)
    invocations.routeChanged(route.fn.id, route)
  }
}

/** The hash of its bundle; undefined for an image. */
function bundleOf({ fn }: FnRoute): string | undefined {
  return fn.image.startsWith(bundlePrefix) ? fn.image.slice(bundlePrefix.length) : undefined
}

function isBundleHere(route: FnRoute, store: Store): boolean {
  const hash = bundleOf(route)
  return hash === undefined || store.bundles.get(hash) !== undefined
}

function specOfRoute({ app, fn }: FnRoute, store: Store, pauseAfterMs: number): FnSpec {
  const bundle = fn.image.startsWith(bundlePrefix)
    ? store.bundles.get(fn.image.slice(bundlePrefix.length))
    : undefined
  return specOf(app, fn, fnSettings(fn.annotations), {
    concurrency: bundle?.manifest.concurrency ?? 1,
    pauseAfterMs,
  })
}

type ListenParts = ReturnType<typeof makeExec> & {
  readonly ids: IdSource
  readonly output: CallOutput
  readonly syslog: SyslogSender
  readonly driver: ProcessDriver
  readonly docker: DockerParts
  readonly secrets: SecretBox
  readonly metrics: Metrics
  readonly token: string
  readonly state: { readonly isDraining: boolean }
  readonly cluster: ClusterNode
}

function listen(config: Config, log: Logger, store: Store, parts: ListenParts) {
  const { invocations, output, docker, secrets, metrics, token, state, ids, cluster } = parts
  const disk = new DiskSpace(config.dataDir, systemClock)
  const { spread, peers } = cluster
  const reports = makeReports({ ...parts, config, store, disk, spread, peers })
  metrics.watch(reports.sources)
  // Bun counts in whole seconds, at most 255; 0 means no limit.
  const idleS = Math.min(255, Math.ceil(config.limits.connectionIdleS))
  const idleTimer = {
    hold: (request: Request) => server.timeout(request, 0),
    release: (request: Request) => server.timeout(request, idleS),
  }
  const onBug = makeOnBug(log)
  const invoke = {
    unexpected: makeUnexpected({ log, ids, onBug }),
    routes: store.routes,
    invoker: invocations,
    limits: config.limits,
    newCallId: () => ids.next(),
    ...(idleS === 0 ? {} : { idleTimer }),
    counterOf: (method: string, path: string) => metrics.route(method, path),
  }
  const api = makeApi({
    config,
    state: store.state,
    clock: systemClock,
    ids,
    log,
    bundles: spread,
    images: docker.images,
    secrets,
    reports,
    ...{ cluster: cluster.members, fresh: cluster.fresh, backups: cluster.backups },
    token,
    version,
    counterOf: invoke.counterOf,
    onBug,
    extra: [
      invokeApi(invoke),
      gatewayApi(invoke),
      healthApi({ version, commit, readyChecks: () => readyChecks(state.isDraining, reports) }),
      metricsApi(metrics),
    ],
    extraAdmin: [logsApi({ output, hasFn: id => store.routes.fnById(id) !== undefined })],
  })
  // Cross-origin rules wrap the router, so that all requests must go through it.
  const hasCors = config.cors.origins.length > 0
  const server = Bun.serve({
    hostname: config.host,
    port: config.port,
    idleTimeout: idleS,
    // Limits are checked where their errors are known; bodies stream.
    maxRequestBodySize: Number.MAX_SAFE_INTEGER,
    fetch: hasCors ? api.fetch : pastRouter(directInvoke(invoke), directGateway(invoke), api.fetch),
  })
  // Routes that stream for long ask it to lift the timeout of their connection.
  api.server = server
  return server
}

function makeOnBug(log: Logger): (error: AssertionError) => void {
  return error => {
    log.fatal({ err: error }, 'a bug in fnd; it ends rather than go on wrongly')
    process.exit(1)
  }
}

function readyChecks(
  isDraining: boolean,
  reports: Pick<ReturnType<typeof makeReports>, 'diskCheck' | 'dockerCheck' | 'membershipCheck'>,
): ReadyCheck[] {
  const draining: ReadyCheck = isDraining
    ? { name: 'accepting', ok: false, reason: 'the node is shutting down', retryAfterS: 5 }
    : { name: 'accepting', ok: true }
  return [draining, reports.membershipCheck(), reports.diskCheck(), reports.dockerCheck()]
}

/** Removes bundles that no function refers to any more. */
async function collectBundles(store: Store, log: Logger): Promise<void> {
  // Functions that came while no leader was heard of are not known here; others count on this copy.
  if (store.member.lead === 0) return
  const removed = await store.bundles.collect(referencedBundles(store), bundleGraceMs)
  if (removed.length > 0) log.info({ bundles: removed }, 'removed bundles that nothing refers to')
}

/** For people on this machine: a wildcard address is reached through loopback. */
function urlOf(host: string, port: number): string {
  if (host === '0.0.0.0' || host === '') return `http://127.0.0.1:${port}`
  if (host === '::') return `http://[::1]:${port}`
  return host.includes(':') ? `http://[${host}]:${port}` : `http://${host}:${port}`
}

/** Where clients reach the HTTP API from elsewhere. */
function publicUrlOf(config: Config, peerAddress: string, port: number): string {
  if (config.publicUrl !== '') return config.publicUrl
  const isAny = config.host === '0.0.0.0' || config.host === '::' || config.host === ''
  const host = isAny ? peerAddress.replace(/:\d+$/, '') : config.host
  return `http://${host.includes(':') && !host.startsWith('[') ? `[${host}]` : host}:${port}`
}
