/**
 * The directory in which a function shows its socket, bound into its container. The function may
 * write there as it likes: so it is a small tmpfs of its own where the daemon sees fnd's mounts,
 * and nothing in it is opened by fnd but through `rendezvous.ts`.
 */
import { createHash } from 'node:crypto'
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { FndError } from '../../errors.ts'
import { isSystemError, mustSyscall, syscall } from '../libc.ts'
import { removeTree } from '../remove-tree.ts'

/** Who uses http-stream in a container (fn-api.md §2.4). */
const fnUid = 1000
const tmpfsBytes = 1024 * 1024
const tmpfsInodes = 64
/** MNT_DETACH, UMOUNT_NOFOLLOW (umount2(2)). */
const detachUnfollowed = 2 | 8
/** nosuid, nodev, noexec (mount(2)). */
const mountFlags = 2 | 4 | 8
/** Lets a start that failed find out whether the daemon saw this directory at all. */
export const markerName = '.fnd'

/** Who binds a socket there: fnd, a container's uid 1000, or whatever user an image names. */
export type Writer = 'fnd' | 'fn' | 'any'

export interface RendezvousDirs {
  /** Makes one. Throws a system error when the host refuses. */
  make(name: string, writer: Writer): RendezvousDir
  /** Removes all of them; their containers should be gone. Never rejects. */
  removeAll(): Promise<void>
  /** Whether a function cannot fill the disk there. */
  readonly areSmall: boolean
}

export interface RendezvousDir {
  readonly path: string
  /** Its name for the daemon. */
  readonly source: string
  /** What cannot be removed at once is removed in time, or by the next fnd. */
  remove(): void
}

export interface RendezvousOptions {
  /** Holds the directories of this fnd and nothing else. */
  readonly base: string
  /** `base` by the name that the daemon's host has for it. */
  readonly dockerBase: string
  /** Whether uid 1000 in a container is uid 1000 here. */
  readonly areUidsReal: boolean
  /** Whether the daemon sees what fnd mounts. */
  readonly areMountsShared: boolean
  /** Told that a directory cannot be removed; a function of another user can bring that about. */
  readonly onLeft: (reason: string) => void
}

/** Removes what an earlier fnd left under `base`. Rejects with a system error, or `FndError`. */
export async function openRendezvousDirs(options: RendezvousOptions): Promise<RendezvousDirs> {
  const { base, dockerBase, onLeft } = options
  await makeBase(base, onLeft)
  const isRoot = process.getuid?.() === 0
  const areSmall = canBeSmall(options.areMountsShared)
  const removals = new Set<Promise<void>>()
  const removeLater = (path: string): void => {
    const removal = removeInTime(path, onLeft).finally(() => removals.delete(removal))
    removals.add(removal)
  }
  return {
    areSmall,
    make: (name, writer) => {
      const path = join(base, name)
      mkdirSync(path, { mode: 0o700 })
      try {
        if (writer !== 'fnd') {
          if (areSmall) mountTmpfs(path)
          giveAway(path, isRoot && options.areUidsReal && writer === 'fn')
        }
      } catch (cause) {
        remove(path, onLeft)
        throw cause
      }
      const isBounded = areSmall || writer === 'fnd'
      return {
        path,
        source: join(dockerBase, name),
        remove: () => (isBounded ? remove(path, onLeft) : removeLater(path)),
      }
    },
    removeAll: async () => {
      await Promise.all(removals)
      await sweep(base, onLeft)
    },
  }
}

function giveAway(path: string, hasOwner: boolean): void {
  writeFileSync(join(path, markerName), '', { flag: 'wx', mode: 0o444 })
  // Last, because from then on it is the function's.
  if (hasOwner) chownSync(path, fnUid, fnUid)
  chmodSync(path, hasOwner ? 0o700 : 0o777)
}

/** Whether each directory can be a small file system of its own. */
export function canBeSmall(areMountsShared: boolean): boolean {
  return process.getuid?.() === 0 && areMountsShared
}

/** An empty directory of this user's alone; the parent may be one where everybody makes files. */
async function makeBase(base: string, onLeft: (reason: string) => void): Promise<void> {
  mkdirSync(dirname(base), { recursive: true, mode: 0o700 })
  const found = lstatSync(base, { throwIfNoEntry: false })
  if (found === undefined) return void mkdirSync(base, { mode: 0o700 })
  const isOwn = found.isDirectory() && found.uid === process.geteuid?.()
  if (!isOwn) throw new FndError('init-failed', { detail: `${base} is in the way` })
  await sweep(base, onLeft)
  mkdirSync(base, { recursive: true, mode: 0o700 })
  chmodSync(base, 0o700)
}

/** A short name that no other instance of this fnd has, and that fits into a socket's path. */
export function rendezvousName(instanceId: string): string {
  return createHash('sha256').update(instanceId).digest('hex').slice(0, 16)
}

function mountTmpfs(path: string): void {
  const data = Buffer.from(`size=${tmpfsBytes},nr_inodes=${tmpfsInodes},mode=700\0`)
  mustSyscall('mount', 'tmpfs', path, 'tmpfs', mountFlags, data)
}

/** A function that still runs, or one of another user, can keep it from being removed. */
function remove(path: string, onLeft: (reason: string) => void): void {
  // Not mounted is as good as unmounted.
  syscall('umount2', path, detachUnfollowed)
  try {
    removeTree(path)
  } catch (cause) {
    if (!isSystemError(cause)) throw cause
    onLeft(cause.message)
  }
}

/** The same beside the event loop: where nothing bounds them, there can be millions of files. */
async function removeInTime(path: string, onLeft: (reason: string) => void): Promise<void> {
  syscall('umount2', path, detachUnfollowed)
  try {
    await rm(path, { recursive: true, force: true })
  } catch (cause) {
    if (!isSystemError(cause)) throw cause
    remove(path, onLeft)
  }
}

async function sweep(base: string, onLeft: (reason: string) => void): Promise<void> {
  for (const name of readdirSync(base)) await removeInTime(join(base, name), onLeft)
  if (readdirSync(base).length === 0) rmdirSync(base)
}

/**
 * Whether the process that listens on a unix socket has the mounts of this one. False when it
 * cannot be told: it may run outside of the container that fnd runs in.
 */
export function sharesMountsWithListener(socketPath: string): boolean {
  try {
    const inode = listenerInode(statSync(socketPath).isSocket() ? socketPath : '')
    if (inode === undefined) return false
    const own = readlinkSync('/proc/self/ns/mnt')
    const pids = readdirSync('/proc').filter(name => /^\d+$/.test(name))
    return pids.some(pid => hasDescriptor(pid, `socket:[${inode}]`) && mountsOf(pid) === own)
  } catch (cause) {
    if (!isSystemError(cause)) throw cause
    return false
  }
}

/** From /proc/net/unix: listening sockets have the flag 00010000. */
function listenerInode(path: string): string | undefined {
  const names = new Set([path, path.replace(/^\/var\/run\//, '/run/')])
  for (const line of readFileSync('/proc/net/unix', 'utf8').split('\n')) {
    const [, , , flags, , , inode, name] = line.trim().split(/\s+/)
    if (flags === '00010000' && name !== undefined && names.has(name)) return inode
  }
  return undefined
}

function hasDescriptor(pid: string, target: string): boolean {
  const dir = `/proc/${pid}/fd`
  return quietly(() => readdirSync(dir), []).some(
    fd => quietly(() => readlinkSync(join(dir, fd)), '') === target,
  )
}

function mountsOf(pid: string): string {
  return quietly(() => readlinkSync(`/proc/${pid}/ns/mnt`), '')
}

/** Processes end, and some are not ours to look into, while /proc is read. */
function quietly<T>(read: () => T, otherwise: T): T {
  try {
    return read()
  } catch (cause) {
    if (!isSystemError(cause)) throw cause
    return otherwise
  }
}
