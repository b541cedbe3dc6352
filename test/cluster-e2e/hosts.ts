/**
 * Machines for tests of clusters: each has a network of its own behind a switch that can cut and
 * spoil every link, and a small filesystem of its own that can be full. They are namespaces held
 * by a process that dies with this one, so that nothing is left even after a crash. Needs root.
 */
import { mkdirSync, mkdtempSync, readlinkSync, rmSync } from 'node:fs'
import { networkInterfaces, tmpdir } from 'node:os'
import { join } from 'node:path'
import { cutLink, goodLink, type Link, Switch } from './switch.ts'

const diskMb = 768

/** Ends with this process whatever happens to it. */
const dieTogether = ['setpriv', '--pdeathsig', 'KILL']

/** Says what failed, and with which words. */
export function run(command: readonly string[]): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync([...command])
  if (exitCode !== 0) throw new Error(`${command.join(' ')}: ${stderr.toString() || exitCode}`)
  return stdout.toString()
}

export class Machine {
  readonly index: number
  address: string
  /** Where its own filesystem is mounted, seen from inside. */
  readonly dir: string
  readonly #holder: Bun.Subprocess

  constructor(index: number, address: string, dir: string) {
    this.index = index
    this.address = address
    this.dir = dir
    mkdirSync(dir)
    const hold = ['unshare', '--net', '--mount', 'sleep', 'infinity']
    this.#holder = Bun.spawn([...dieTogether, ...hold], { stdio: ['ignore', 'ignore', 'inherit'] })
  }

  get pid(): number {
    return this.#holder.pid
  }

  /** A command that runs the other one in here. It keeps its process id. */
  inside(command: readonly string[]): string[] {
    return [
      'nsenter',
      `--net=/proc/${this.pid}/ns/net`,
      `--mount=/proc/${this.pid}/ns/mnt`,
      ...command,
    ]
  }

  /** The path as this process reaches it. */
  outside(path: string): string {
    return `/proc/${this.pid}/root${path}`
  }

  spawn(command: readonly string[], env: Record<string, string>, log: string): Bun.Subprocess {
    return Bun.spawn(this.inside([...dieTogether, ...command]), {
      env: { PATH: process.env.PATH ?? '', ...env },
      stdin: 'ignore',
      stdout: Bun.file(log),
      stderr: Bun.file(log),
    })
  }

  async setUp(device: string): Promise<void> {
    const isApart = (kind: string) =>
      readlinkSync(`/proc/${this.pid}/ns/${kind}`) !== readlinkSync(`/proc/self/ns/${kind}`)
    while (!isApart('net') || !isApart('mnt')) {
      if (this.#holder.exitCode !== null) throw new Error('no namespaces: this needs root')
      await Bun.sleep(1)
    }
    run(['ip', 'link', 'set', 'dev', device, 'netns', String(this.pid), 'name', 'eth0'])
    const image = `${this.dir}.ext4`
    const script = `set -e
      ${linkUp('eth0', this.index, this.address)}
      ip link set lo up
      truncate -s ${diskMb}M ${image}
      mkfs.ext4 -q -m 0 ${image}
      mount -o loop ${image} ${this.dir}
      rm ${image}`
    run(this.inside(['sh', '-c', script]))
  }

  /** As after a DHCP lease that was not renewed. The old address is nobody's. */
  readdress(address: string): void {
    const change = `ip addr flush dev eth0 && ip addr add ${address}/24 dev eth0`
    run(this.inside(['sh', '-c', change]))
    this.address = address
  }

  /** No byte is left on its disk, until `freeDisk`. */
  fillDisk(): void {
    // `dd` ends with an error when the disk is full, as is wanted here.
    run(
      this.inside(['sh', '-c', `dd if=/dev/zero of=${this.dir}/ballast bs=1M 2>&1 || true; sync`]),
    )
  }

  freeDisk(): void {
    run(this.inside(['rm', '-f', `${this.dir}/ballast`]))
  }

  async end(): Promise<void> {
    this.#holder.kill('SIGKILL')
    await this.#holder.exited
  }
}

function linkUp(device: string, port: number, address: string): string {
  const hardware = `02:00:00:00:00:${port.toString(16).padStart(2, '0')}`
  return `ip link set dev ${device} address ${hardware} mtu 9000 up
    ip addr add ${address}/24 dev ${device}`
}

/** A range that no interface here uses; other runs may look at the same time. */
function freeNetwork(): string {
  const used = Object.values(networkInterfaces()).flatMap(list => list?.map(one => one.address))
  for (let i = 0; i < 254; i += 1) {
    const network = `10.231.${((process.pid + i) % 254) + 1}`
    if (!used.some(address => address?.startsWith(`${network}.`))) return network
  }
  throw new Error('all of 10.231.0.0/16 is in use')
}

export class Machines implements AsyncDisposable {
  readonly dir = mkdtempSync(join(tmpdir(), 'fnd-hosts-'))
  readonly all: Machine[] = []
  readonly network: Switch
  readonly #range: string
  /** This process is at port 0 of the switch, and the machines at their index. */
  static readonly clients = 0

  private constructor(network: Switch, range: string) {
    this.network = network
    this.#range = range
  }

  /** `room` is how many there can be at most, `count` of them are made at once. */
  static async start(count: number, room: number, seed: number): Promise<Machines> {
    if (process.getuid?.() !== 0) throw new Error('machines are namespaces: run this as root')
    const prefix = `f${process.pid.toString(36)}x${nextNetwork++}p`
    const range = freeNetwork()
    const machines = new Machines(await Switch.start(prefix, room + 1, seed), range)
    run(['sh', '-c', `set -e\n${linkUp(`${prefix}0`, 0, `${range}.254`)}`])
    for (let i = 0; i < count; i += 1) await machines.add()
    return machines
  }

  async add(): Promise<Machine> {
    const index = this.all.length + 1
    const machine = new Machine(index, `${this.#range}.${index}`, join(this.dir, `m${index}`))
    this.all.push(machine)
    await machine.setUp(`${this.network.prefix}${index}`)
    return machine
  }

  link(from: Machine, to: Machine, link: Link): void {
    this.network.set(from.index, to.index, link)
  }

  /** Both ways, between each of one side and each of the other. Clients reach all of them. */
  part(side: readonly Machine[], other: readonly Machine[]): void {
    for (const a of side) {
      for (const b of other) {
        this.link(a, b, cutLink)
        this.link(b, a, cutLink)
      }
    }
  }

  /** All links among the machines. */
  spoil(link: Link): void {
    for (const a of this.all) for (const b of this.all) if (a !== b) this.link(a, b, link)
  }

  heal(): void {
    this.spoil(goodLink)
    for (const machine of this.all) machine.freeDisk()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.all.map(machine => machine.end()))
    await this.network[Symbol.asyncDispose]()
    rmSync(this.dir, { recursive: true, force: true })
  }
}

let nextNetwork = 0
