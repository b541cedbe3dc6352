/**
 * What a durable append of 512 bytes takes without anything around it, for one process and for
 * three at once on the same disk, as the members in bench:cluster are: a page of a file that has
 * its size already, written and flushed (as etcd's log does it), and a transaction of LMDB with one
 * put into a tree of some hundred, which flushes its pages and then the page that names them. The
 * difference is what fnd's log cannot have less than etcd's.
 *
 * npm run bench:flush -- [--seconds S] [--dir PATH]
 */
import { constants, fdatasyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { open } from 'lmdb'
import { quantile } from './figures.ts'
import { median, table } from './fnd.ts'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '3' },
    dir: { type: 'string', default: tmpdir() },
    /** What a process of its own is to do, in which directory. */
    one: { type: 'string', default: '' },
  },
})
const durationMs = Number(values.seconds) * 1000
const valueBytes = 512
const pageBytes = 4096
const filePages = 4096
const kept = 400

/** Appends until the time is over; how long each took, in ms. */
function timed(append: (count: number) => void): number[] {
  const taken: number[] = []
  const endMs = performance.now() + durationMs
  for (let count = 0; performance.now() < endMs; count += 1) {
    const fromMs = performance.now()
    append(count)
    taken.push(performance.now() - fromMs)
  }
  return taken
}

function fileAppends(dir: string): number[] {
  const file = openSync(join(dir, 'file'), constants.O_RDWR | constants.O_CREAT)
  writeSync(file, Buffer.alloc(pageBytes * filePages, 1))
  fdatasyncSync(file)
  const page = Buffer.alloc(pageBytes, 7)
  return timed(count => {
    writeSync(file, page, 0, pageBytes, (count % filePages) * pageBytes)
    fdatasyncSync(file)
  })
}

function lmdbAppends(dir: string): number[] {
  const root = open<Uint8Array, number>({
    path: join(dir, 'lmdb'),
    encoding: 'binary',
    noSubdir: true,
    overlappingSync: false,
  })
  const value = new Uint8Array(valueBytes).fill(7)
  root.transactionSync(() => {
    for (let key = 0; key < kept; key += 1) root.putSync(key, value)
  })
  return timed(count => {
    root.transactionSync(() => {
      root.putSync(kept + count, value)
      root.removeSync(count)
    })
  })
}

const kinds = { 'page of a file': fileAppends, 'transaction of LMDB': lmdbAppends }
type Kind = keyof typeof kinds

async function inProcess(kind: Kind): Promise<number[]> {
  const dir = mkdtempSync(join(values.dir, 'fnd-flush-'))
  const args = [process.execPath, import.meta.path, '--one', kind, '--dir', dir]
  const child = Bun.spawn([...args, '--seconds', values.seconds], {
    stdin: 'ignore',
    stdout: 'pipe',
    stderr: 'inherit',
  })
  const text = await new Response(child.stdout).text()
  rmSync(dir, { recursive: true, force: true })
  return JSON.parse(text) as number[]
}

async function measure(): Promise<void> {
  const rows: (string | number)[][] = [['', 'p50 ms', 'p99 ms', 'ratio']]
  for (const processes of [1, 3]) {
    let base: number | undefined
    for (const kind of Object.keys(kinds) as Kind[]) {
      const each = await Promise.all(Array.from({ length: processes }, () => inProcess(kind)))
      const all = each.flat()
      base ??= median(all)
      const name = `${kind}, ${processes === 1 ? 'one process' : `${processes} processes`}`
      rows.push([name, median(all), quantile(all, 0.99), median(all) / base])
    }
  }
  table(rows)
}

if (values.one === '') await measure()
else console.log(JSON.stringify(kinds[values.one as Kind](values.dir)))
