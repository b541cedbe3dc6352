/** Finds and removes what belongs to a Docker daemon of a test: of this one, or of one before. */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Of directories in the temporary directory. Short: sockets are below it. */
export const dirPrefix = 'fnd-dd-'
export const bridgePrefix = 'fndbr'
export const ownerFile = 'owner.json'

/** In ticks since boot; tells a process from a later one with the same id. '' when it is gone. */
export function startTimeOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''
  } catch {
    return ''
  }
}

interface Owner {
  readonly pid: number
  readonly startTime: string
  readonly bridge?: string
}

/** What a test writes beside things that it leaves on the host for a while. */
export function ownerText(more: { readonly bridge?: string } = {}): string {
  return JSON.stringify({ pid: process.pid, startTime: startTimeOf(process.pid), ...more })
}

/** Whether the process that wrote this text still runs. A file being written ('') has an owner. */
export function isOwned(text: string): boolean {
  if (text === '') return true
  const owner = JSON.parse(text) as Owner
  return startTimeOf(owner.pid) === owner.startTime
}

function ownerOf(dir: string): string {
  const file = join(dir, ownerFile)
  return existsSync(file) ? readFileSync(file, 'utf8') : ''
}

/** Removes daemons whose tests have ended without doing so. */
export function removeLeftovers(): void {
  for (const name of readdirSync(tmpdir()).filter(name => name.startsWith(dirPrefix))) {
    const dir = join(tmpdir(), name)
    if (!isOwned(ownerOf(dir))) removeDaemonDir(dir)
  }
}

interface Running {
  readonly pid: number
  readonly parent: number
  readonly command: string
}

function processes(): Running[] {
  return readdirSync('/proc').flatMap(name => {
    if (!/^\d+$/.test(name)) return []
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8')
      const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
      const command = readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ')
      return [{ pid: Number(name), parent, command }]
    } catch {
      // It ended meanwhile.
      return []
    }
  })
}

function killAll(pids: readonly number[]): void {
  for (const pid of pids) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'ESRCH') throw cause
    }
  }
}

/** Kills the processes in a daemon's containers: the descendants of its containerd's shims. */
export function endContainers(dir: string): void {
  const all = processes()
  const isShim = ({ command }: Running) =>
    command.includes('containerd-shim') && command.includes(`${dir}/`)
  const inside = new Set(all.filter(isShim).map(({ pid }) => pid))
  const shims = new Set(inside)
  for (let before = -1; before !== inside.size; ) {
    before = inside.size
    for (const { pid, parent } of all) if (inside.has(parent)) inside.add(pid)
  }
  killAll([...inside].filter(pid => !shims.has(pid)))
}

/** The processes of a daemon itself, or those of one of its programs. */
export function programsOf(dir: string, program?: 'containerd'): number[] {
  const wanted = program ?? 'dockerd|containerd|containerd-shim\\S*|docker-proxy'
  const isOne = new RegExp(`^(\\S*/)?(${wanted}) `)
  const own = processes().filter(
    ({ command }) => isOne.test(command) && command.includes(`${dir}/`),
  )
  return own.map(({ pid }) => pid)
}

/** Removes a daemon's processes, mounts, bridge and directory. Nothing of it need be there. */
export function removeDaemonDir(dir: string): void {
  endContainers(dir)
  killUntilGone(dir, () => programsOf(dir))
  unmountBelow(dir)
  const owner = ownerOf(dir)
  const bridge = owner === '' ? undefined : (JSON.parse(owner) as Owner).bridge
  if (bridge !== undefined) spawnSync('ip', ['link', 'del', bridge])
  rmSync(dir, { recursive: true, force: true })
}

/**
 * Removes what podman keeps in this directory. Each container that has ended runs a podman of its
 * own that cleans up, and may mount the storage again, so that none is left before the unmount.
 */
export function removePodmanDir(dir: string): void {
  const isOne = ({ pid, command }: Running) => pid !== process.pid && command.includes(`${dir}/`)
  const find = () => processes().flatMap(one => (isOne(one) ? [one.pid] : []))
  killUntilGone(dir, find)
  unmountBelow(dir)
  rmSync(dir, { recursive: true, force: true })
}

function killUntilGone(dir: string, find: () => number[]): void {
  const deadlineMs = performance.now() + 10_000
  for (let own = find(); own.length > 0; own = find()) {
    killAll(own)
    if (performance.now() > deadlineMs) throw new Error(`processes of ${dir} do not end: ${own}`)
    Bun.sleepSync(5)
  }
}

function unmountBelow(dir: string): void {
  for (const path of mountsBelow(dir)) spawnSync('umount', ['-l', path])
}

/** The latest first. */
function mountsBelow(dir: string): string[] {
  const lines = readFileSync('/proc/self/mountinfo', 'utf8').split('\n')
  const points = lines.map(line => line.split(' ')[4] ?? '')
  return points.filter(point => point.startsWith(`${dir}/`)).reverse()
}
