/**
 * Who on this machine is at the other end of a connection. Functions reach the peer port as
 * everything on the machine does (docs/isolation.md), and what a joining node is given rules the
 * cluster: so a loopback address alone proves nothing. A process is trusted that runs as root or
 * as this node's user, in the namespaces of this node: such a process could read the data
 * directory as well. The kernel knows: it lists sockets with their inodes, and who has them open.
 */
import { readdir, readFile, readlink, stat } from 'node:fs/promises'

export interface Ends {
  readonly remoteAddress: string
  readonly remotePort: number
  readonly localAddress: string
  readonly localPort: number
}

/** False as well when it cannot be found out. `ends` are as this node sees them. */
export async function isTrustedNeighbour(ends: Ends): Promise<boolean> {
  const tables = await Promise.all(['/proc/self/net/tcp', '/proc/self/net/tcp6'].map(readText))
  const inode = tables.map(table => inodeOf(table ?? '', ends)).find(found => found !== undefined)
  if (inode === undefined) return false
  const holders = await holdersOf(inode)
  if (holders.length === 0) return false
  const ours = await namespacesOf('self')
  const trusts = await Promise.all(
    holders.map(async ({ pid, uid }) => {
      if (uid !== 0 && uid !== process.geteuid?.()) return false
      return ours !== undefined && (await namespacesOf(pid)) === ours
    }),
  )
  return trusts.every(isTrusted => isTrusted)
}

/** The other end's line: what is remote to us is local to it. Columns: proc_net_tcp of Linux. */
export function inodeOf(table: string, ends: Ends): string | undefined {
  for (const line of table.split('\n').slice(1)) {
    const columns = line.trim().split(/\s+/)
    const local = socketAddress(columns[1] ?? '')
    const remote = socketAddress(columns[2] ?? '')
    const isIt =
      local?.port === ends.remotePort &&
      remote?.port === ends.localPort &&
      local.address === plain(ends.remoteAddress) &&
      remote.address === plain(ends.localAddress)
    // An inode of 0: nobody has it open any more.
    if (isIt && columns[9] !== '0') return columns[9]
  }
  return undefined
}

/** Bytes of a v6 address as hex digits; v4 ones as `::ffff:` maps them. */
function plain(address: string): string {
  const v4 = /^(?:::ffff:)?(\d+)\.(\d+)\.(\d+)\.(\d+)$/i.exec(address)
  const hex = (text: string, digits: number) => text.padStart(digits, '0').toLowerCase()
  if (v4 !== null) {
    const bytes = v4.slice(1).map(part => hex(Number(part).toString(16), 2))
    return `${'0'.repeat(20)}ffff${bytes.join('')}`
  }
  const [head = '', tail] = address.replace(/%.*$/, '').split('::')
  const words = (text: string) => (text === '' ? [] : text.split(':').map(word => hex(word, 4)))
  const [first, last] = [words(head), words(tail ?? '')]
  const zeros = Math.max(8 - first.length - last.length, 0)
  return [...first, ...Array.from({ length: zeros }, () => '0000'), ...last].join('')
}

/** `0100007F:1F90`: words of four bytes, each in the byte order of the machine: little-endian. */
function socketAddress(text: string) {
  const [hex = '', port = ''] = text.split(':')
  const words = hex.match(/.{8}/g) ?? []
  if (words.length !== 1 && words.length !== 4) return undefined
  const address = words.map(word => (word.match(/../g) ?? []).reverse().join('')).join('')
  const full = words.length === 1 ? `${'0'.repeat(20)}ffff${address}` : address
  return { address: full.toLowerCase(), port: Number.parseInt(port, 16) }
}

interface Holder {
  readonly pid: string
  readonly uid: number
}

async function holdersOf(inode: string): Promise<Holder[]> {
  const wanted = `socket:[${inode}]`
  const holders: Holder[] = []
  for (const pid of await list('/proc')) {
    if (!/^\d+$/.test(pid)) continue
    for (const fd of await list(`/proc/${pid}/fd`)) {
      if ((await target(`/proc/${pid}/fd/${fd}`)) !== wanted) continue
      const owner = await expected(stat(`/proc/${pid}`))
      if (owner !== undefined) holders.push({ pid, uid: owner.uid })
      break
    }
  }
  return holders
}

/** A container, or a function, has others than this node. */
async function namespacesOf(pid: string): Promise<string | undefined> {
  const names = await Promise.all(['pid', 'user'].map(name => target(`/proc/${pid}/ns/${name}`)))
  return names.includes(undefined) ? undefined : names.join(' ')
}

async function readText(path: string): Promise<string | undefined> {
  return await expected(readFile(path, 'utf8'))
}

async function list(path: string): Promise<readonly string[]> {
  return (await expected(readdir(path))) ?? []
}

async function target(path: string): Promise<string | undefined> {
  return await expected(readlink(path))
}

/** Processes end while they are looked at, others are not ours to look at, descriptors run out. */
async function expected<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause) return undefined
    throw cause
  }
}
