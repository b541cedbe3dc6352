/**
 * The meeting place of fnd and a function: the function binds a socket in its directory and then
 * shows it as `lsnr.sock` (fn-api.md §2.2). The function owns the directory and is not trusted:
 * every name is opened without following links, and the socket is used by its inode, which the
 * descriptor pins. Nothing the function does later can point fnd elsewhere.
 */
import { closeSync, constants, fstatSync, openSync, readlinkSync } from 'node:fs'

/** Path only: opens a socket or directory without connecting, reading, or waiting. */
const pathOnly = 0o10000000
const socketName = 'lsnr.sock'

export type Meeting =
  | { readonly kind: 'absent' }
  | { readonly kind: 'refused'; readonly reason: string }
  /** `connect` to `path` reaches the socket for as long as `fd` is open. */
  | { readonly kind: 'ready'; readonly fd: number; readonly path: string }

/** Undefined when the directory is gone, with the process whose it was. */
export function openRendezvous(path: string): number | undefined {
  const flags = pathOnly | constants.O_DIRECTORY | constants.O_NOFOLLOW
  try {
    return openSync(path, flags)
  } catch (cause) {
    const { code = '' } = cause as NodeJS.ErrnoException
    if (['ENOENT', 'ESRCH', 'ENOTDIR', 'ELOOP'].includes(code)) return undefined
    throw cause
  }
}

export function meet(dirFd: number): Meeting {
  const dir = `/proc/self/fd/${dirFd}`
  const target = targetOf(`${dir}/${socketName}`)
  if (target === undefined) return { kind: 'absent' }
  if (target.includes('/') || target === '..' || target === '.') {
    return { kind: 'refused', reason: `${socketName} points outside of its directory` }
  }
  const flags = pathOnly | constants.O_NOFOLLOW
  // The name is the function's choice, so what the kernel says of it, whatever it is, is an answer.
  const fd = openOrCode(`${dir}/${target}`, flags)
  if (typeof fd === 'string') {
    const why = fd === 'ENOENT' ? 'points to nothing' : `cannot be opened: ${fd}`
    return { kind: 'refused', reason: `${socketName} ${why}` }
  }
  if (!fstatSync(fd).isSocket()) {
    closeSync(fd)
    return { kind: 'refused', reason: `${socketName} is not a socket` }
  }
  return { kind: 'ready', fd, path: `/proc/self/fd/${fd}` }
}

/** The link's text; the name itself where a function bound its socket there without a link. */
function targetOf(path: string): string | undefined {
  try {
    return readlinkSync(path)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    // A directory that its function closed to everybody shows nothing either.
    if (code === 'ENOENT' || code === 'EACCES') return undefined
    if (code === 'EINVAL') return socketName
    throw cause
  }
}

/** A descriptor, or the code of the error. */
function openOrCode(path: string, flags: number): number | string {
  try {
    return openSync(path, flags)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === undefined) throw cause
    return code
  }
}
