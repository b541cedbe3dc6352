/**
 * Docker daemons for tests: each test file starts its own, with a containerd, images, containers
 * and networks that nobody else sees, and removes all of it. Needs root and Debian's docker.io.
 * What an ended test run left behind is removed before a daemon starts (`leftovers.ts`).
 */
import { spawnSync } from 'node:child_process'
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Subprocess } from 'bun'
import Docker from 'dockerode'
import { makeCerts } from './certs.ts'
import {
  bridgePrefix,
  dirPrefix,
  endContainers,
  ownerFile,
  ownerText,
  programsOf,
  removeDaemonDir,
  removeLeftovers,
} from './leftovers.ts'

export interface DaemonOptions {
  /** A bridge network for its containers; without one they have network `none` or `host`. */
  readonly bridge?: boolean
  /** Listens on TCP of loopback as well, and only to clients with a certificate of `certDir`. */
  readonly tls?: boolean
  /** The daemon's own choice when absent: overlay2 where the file system can carry it. */
  readonly storage?: 'overlay2' | 'vfs'
  /** Size of the file system that holds its images and containers; the host's when absent. */
  readonly diskMb?: number
  /** Containers outlive the daemon. */
  readonly liveRestore?: boolean
  /** Registries (host:port) with plain HTTP or without a valid certificate. Loopback always is. */
  readonly insecureRegistries?: readonly string[]
}

const startTimeoutMs = 60_000
const endTimeoutMs = 20_000
/** sun_path holds 107 bytes; containerd's own socket is the longest below a daemon's directory. */
const dirBytesMax = 107 - '/exec/containerd/containerd.sock.ttrpc'.length

export class Daemon implements AsyncDisposable {
  /** A short path; everything of the daemon is below it. */
  readonly dir: string
  /** `unix://…`, for DOCKER_HOST. */
  readonly host: string
  readonly socketPath: string
  /** A client of the unix socket. */
  readonly docker: Docker
  /** `tcp://127.0.0.1:…`, with `tls`. */
  readonly tcpHost: string | undefined
  /** ca.pem, cert.pem and key.pem for DOCKER_CERT_PATH, with `tls`. */
  readonly certDir: string
  /** The host's address on the daemon's bridge; containers reach the host by it. */
  readonly gateway: string | undefined
  readonly #arguments: readonly string[]
  #process: Subprocess | undefined

  private constructor(dir: string, options: DaemonOptions) {
    this.dir = dir
    this.socketPath = join(dir, 'docker.sock')
    this.host = `unix://${this.socketPath}`
    this.docker = new Docker({ socketPath: this.socketPath })
    this.certDir = join(dir, 'certs')
    const bridge = options.bridge === true ? addBridge() : undefined
    this.gateway = bridge?.gateway
    const tcpPort = options.tls === true ? freePort() : undefined
    this.tcpHost = tcpPort === undefined ? undefined : `tcp://127.0.0.1:${tcpPort}`
    const owner = ownerText(bridge === undefined ? {} : { bridge: bridge.name })
    writeFileSync(join(dir, ownerFile), owner)
    writeFileSync(join(dir, 'daemon.json'), '{}')
    mkdirSync(join(dir, 'data'))
    if (options.diskMb !== undefined) {
      const size = `size=${options.diskMb}m`
      must('mount', '-t', 'tmpfs', '-o', size, 'fnd-test', join(dir, 'data'))
    }
    this.#arguments = [
      ...['--host', this.host, '--config-file', join(dir, 'daemon.json')],
      ...['--data-root', join(dir, 'data'), '--exec-root', join(dir, 'exec')],
      ...['--pidfile', join(dir, 'pid'), '--iptables=false', '--ip6tables=false'],
      ...(bridge === undefined
        ? ['--bridge=none']
        : [`--bridge=${bridge.name}`, `--fixed-cidr=${bridge.subnet}`]),
      ...(options.storage === undefined ? [] : ['--storage-driver', options.storage]),
      ...(options.liveRestore === true ? ['--live-restore'] : []),
      ...(options.insecureRegistries ?? []).flatMap(name => ['--insecure-registry', name]),
      ...(this.tcpHost === undefined ? [] : this.#tlsArguments(this.tcpHost)),
    ]
  }

  /** Resolves when the daemon answers. Throws, with the end of its log, when it does not. */
  static async start(options: DaemonOptions = {}): Promise<Daemon> {
    checkMachine()
    removeLeftovers()
    const dir = mkdtempSync(join(tmpdir(), dirPrefix))
    if (dir.length > dirBytesMax) throw new Error(`TMPDIR is too long a path for sockets: ${dir}`)
    const daemon = new Daemon(dir, options)
    try {
      await daemon.start()
    } catch (cause) {
      await daemon.stop()
      throw cause
    }
    return daemon
  }

  get pid(): number {
    if (this.#process === undefined) throw new Error('the daemon does not run')
    return this.#process.pid
  }

  /** The daemon's own log so far. */
  log(): string {
    return readFileSync(join(this.dir, 'log'), 'utf8')
  }

  /** Starts it again after `end` or `kill`, with what it had. */
  async start(): Promise<void> {
    const log = openSync(join(this.dir, 'log'), 'a')
    // It ends with the test, even when the test is killed.
    const child = Bun.spawn(['setpriv', '--pdeathsig', 'SIGTERM', 'dockerd', ...this.#arguments], {
      stdin: 'ignore',
      stdout: log,
      stderr: log,
      env: environment,
    })
    closeSync(log)
    this.#process = child
    const deadlineMs = performance.now() + startTimeoutMs
    for (;;) {
      const isThere = await this.docker.ping().then(
        () => true,
        () => false,
      )
      if (isThere) return
      if (child.exitCode !== null || performance.now() > deadlineMs) {
        throw new Error(`dockerd does not start:\n${this.log().slice(-3000)}`)
      }
      await Bun.sleep(20)
    }
  }

  /** Asks it to end, as an upgrade of its package does; its containers end first, or live on. */
  async end(): Promise<void> {
    await this.#signalAndWait('SIGTERM')
  }

  /** It dies at once; its containers run on, with nobody to ask about them. */
  async kill(): Promise<void> {
    await this.#signalAndWait('SIGKILL')
  }

  async restart(): Promise<void> {
    await this.end()
    await this.start()
  }

  /** It accepts connections, and answers nothing until `thaw`. */
  freeze(): void {
    process.kill(this.pid, 'SIGSTOP')
    // Threads that run on another processor stop a little later.
    while (!isStopped(this.pid)) Bun.sleepSync(1)
  }

  thaw(): void {
    process.kill(this.pid, 'SIGCONT')
  }

  /** Ends it and removes all that is its: containers, images, mounts, networks, processes. */
  async stop(): Promise<void> {
    if (this.#process !== undefined) {
      this.thaw()
      endContainers(this.dir)
      await this.#signalAndWait('SIGTERM')
    }
    removeDaemonDir(this.dir)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  async #signalAndWait(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    const child = this.#process
    if (child === undefined) return
    child.kill(signal)
    const timer = setTimeout(() => child.kill('SIGKILL'), endTimeoutMs)
    await child.exited
    clearTimeout(timer)
    this.#process = undefined
    // A new daemon would take a dying containerd, or one not yet reaped, for its own, and wait for
    // it in vain.
    while (programsOf(this.dir, 'containerd').length > 0) await Bun.sleep(5)
    rmSync(join(this.dir, 'exec/containerd/containerd.pid'), { force: true })
  }

  #tlsArguments(host: string): string[] {
    makeCerts(this.certDir, ['127.0.0.1', 'localhost'])
    const file = (name: string) => join(this.certDir, name)
    return [
      ...['--host', host, '--tlsverify', '--tlscacert', file('ca.pem')],
      ...['--tlscert', file('server-cert.pem'), '--tlskey', file('server-key.pem')],
    ]
  }
}

function isStopped(pid: number): boolean {
  const tasks = readdirSync(`/proc/${pid}/task`)
  return tasks.every(task => {
    const stat = readFileSync(`/proc/${pid}/task/${task}/stat`, 'utf8')
    return /^ T/.test(stat.slice(stat.lastIndexOf(')') + 1))
  })
}

/** Debian keeps daemons where the path of a user may not lead. */
const environment = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` }

function checkMachine(): void {
  if (process.getuid?.() !== 0) throw new Error('a Docker daemon needs root')
  const programs = ['dockerd', 'containerd', 'runc', 'setpriv', 'ip', 'openssl', 'docker-init']
  const missing = programs.filter(name => Bun.which(name, { PATH: environment.PATH }) === null)
  if (missing.length > 0) {
    throw new Error(
      `missing: ${missing.join(', ')}. Install docker.io, iproute2 and openssl (see .ci/run).`,
    )
  }
}

function must(...command: readonly string[]): void {
  const [program = '', ...rest] = command
  const { status, stderr } = spawnSync(program, rest, { encoding: 'utf8', env: environment })
  if (status !== 0) throw new Error(`${command.join(' ')}: ${stderr}`)
}

interface Bridge {
  readonly name: string
  readonly gateway: string
  readonly subnet: string
}

/** The name of a link is unique on a host, so whoever adds it owns its number and its subnet. */
function addBridge(): Bridge {
  for (let number = 0; number < 250; number += 1) {
    const name = `${bridgePrefix}${number}`
    const added = spawnSync('ip', ['link', 'add', 'name', name, 'type', 'bridge'], {
      encoding: 'utf8',
      env: environment,
    })
    if (added.status !== 0) {
      if (added.stderr.includes('File exists')) continue
      throw new Error(`cannot add a bridge: ${added.stderr}`)
    }
    const gateway = `10.213.${number}.1`
    must('ip', 'addr', 'add', `${gateway}/24`, 'dev', name)
    must('ip', 'link', 'set', name, 'up')
    return { name, gateway, subnet: `10.213.${number}.0/24` }
  }
  throw new Error('every number of a bridge is taken')
}

/** A port of loopback that nobody uses just then. */
export function freePort(): number {
  const listener = Bun.listen({ hostname: '127.0.0.1', port: 0, socket: { data: () => {} } })
  listener.stop()
  return listener.port
}
