/**
 * How the command line finds a server of the same user on this machine: a running server leaves a
 * record of where it listens and where its data lies. The record holds no secret; the token stays
 * in the data directory. Directory 0700 and file 0600, so that nobody else can plant a record.
 */
import {
  accessSync,
  chmodSync,
  constants,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { hostname, networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { isLoopback } from './config.ts'

export interface ServerRecord {
  readonly url: string
  readonly pid: number
  readonly dataDir: string
  /** When the process started, in the kernel's words: a later process may have the same pid. */
  readonly startedAt: string
}

/** Writes the record and returns how to remove it, which the server does as it ends. */
export function announceServer(
  stateDir: string,
  server: { readonly url: string; readonly dataDir: string; readonly pid: number },
): () => void {
  const dir = join(stateDir, 'servers')
  if (!makeOwnDir(dir)) return () => undefined
  // One server at a time has a data directory, so its name is the key.
  const hash = new Bun.CryptoHasher('sha256').update(server.dataDir).digest('hex')
  const path = join(dir, `${hash.slice(0, 16)}.json`)
  const record: ServerRecord = { ...server, startedAt: processStart(server.pid) ?? '' }
  const temporary = `${path}.${server.pid}`
  writeFileSync(temporary, `${JSON.stringify(record)}\n`, { mode: 0o600 })
  renameSync(temporary, path)
  return () => {
    // Another server may have taken over the data directory, and the record with it.
    if (readRecord(path)?.pid === server.pid) rmSync(path, { force: true })
  }
}

/**
 * False where the home of this user cannot be written, as in a container with a read-only root: a
 * server runs there as well, and its command line is told where it is.
 */
function makeOwnDir(dir: string): boolean {
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 })
    chmodSync(dir, 0o700)
    accessSync(dir, constants.W_OK)
    return true
  } catch (cause) {
    const { code = '' } = cause as NodeJS.ErrnoException
    if (!['EACCES', 'EPERM', 'EROFS', 'ENOENT', 'ENOTDIR', 'EEXIST'].includes(code)) throw cause
    return false
  }
}

/** The records of servers that run now. */
export function findServers(stateDir: string): ServerRecord[] {
  const dir = join(stateDir, 'servers')
  let names: string[]
  try {
    if (statSync(dir).uid !== process.getuid?.()) return []
    names = readdirSync(dir).filter(name => name.endsWith('.json'))
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw cause
  }
  return names
    .map(name => readRecord(join(dir, name)))
    .filter(record => record !== undefined)
    .filter(record => processStart(record.pid) === record.startedAt)
}

/** The server of this machine and user that answers at `url`, if any. */
export function findServer(stateDir: string, url: string): ServerRecord | undefined {
  const wanted = new URL(url)
  if (!isThisHost(wanted.hostname)) return undefined
  return findServers(stateDir).find(record => {
    const own = new URL(record.url)
    return own.protocol === wanted.protocol && portOf(own) === portOf(wanted)
  })
}

/** Whether a token that lies in a file here may be sent to `host`. */
export function isThisHost(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, '')
  if (isLoopback(bare) || bare === '0.0.0.0' || bare === '::' || bare === hostname()) return true
  return Object.values(networkInterfaces()).some(list => list?.some(one => one.address === bare))
}

function portOf(url: URL): string {
  if (url.port !== '') return url.port
  return url.protocol === 'https:' ? '443' : '80'
}

function readRecord(path: string): ServerRecord | undefined {
  try {
    const record: unknown = JSON.parse(readFileSync(path, 'utf8'))
    return isRecord(record) ? record : undefined
  } catch (cause) {
    // Removed since it was listed, or cut short by a crash: either way no server stands behind it.
    if (cause instanceof SyntaxError) return undefined
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw cause
  }
}

function isRecord(value: unknown): value is ServerRecord {
  if (typeof value !== 'object' || value === null) return false
  const record = value as Partial<Record<keyof ServerRecord, unknown>>
  return (
    typeof record.url === 'string' &&
    URL.canParse(record.url) &&
    typeof record.pid === 'number' &&
    typeof record.dataDir === 'string' &&
    typeof record.startedAt === 'string'
  )
}

/** Field 22 of /proc/<pid>/stat (proc(5)), or undefined when no such process runs. */
function processStart(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // The second field is the program's name in parentheses and may itself hold spaces.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code
    if (code === 'ENOENT' || code === 'ESRCH') return undefined
    throw cause
  }
}
