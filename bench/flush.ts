/**
 * What a durable append of 512 bytes takes without anything around it, for one process and for
 * three at once on the same disk, as the members in bench:cluster are: a sector of a file that has
 * its size already, written through and past the page cache (fnd's journal); a page of such a file,
 * written and flushed (as etcd's log does it); and a transaction of LMDB with one put into a tree
 * of some hundred, which flushes its pages and then the page that names them. The ratio is to the
 * last, which is what the journal saves.
 *
 * npm run bench:flush -- [--seconds S] [--dir PATH]
 */
import { ptr } from 'bun:ffi'
import {
  closeSync,
  constants,
  fdatasyncSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeSync,
} from 'node:fs'
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
const sectorBytes = 512
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

/** A file that has its size already. */
function madeFile(dir: string): string {
  const path = join(dir, 'file')
  const file = openSync(path, 'w')
  writeSync(file, Buffer.alloc(pageBytes * filePages, 1))
  fdatasyncSync(file)
  closeSync(file)
  return path
}

function journalAppends(dir: string): number[] {
  const { O_WRONLY, O_DSYNC, O_DIRECT } = constants
  const file = openSync(madeFile(dir), O_WRONLY | O_DSYNC | O_DIRECT)
  const memory = new Uint8Array(2 * pageBytes).fill(7)
  const from = pageBytes - (ptr(memory) % pageBytes)
  const sector = memory.subarray(from, from + sectorBytes)
  const sectors = (filePages * pageBytes) / sectorBytes
  return timed(count => {
    writeSync(file, sector, 0, sectorBytes, (count % sectors) * sectorBytes)
  })
}

function fileAppends(dir: string): number[] {
  const file = openSync(madeFile(dir), 'r+')
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

const kinds = {
  'sector, written through': journalAppends,
  'page of a file, flushed': fileAppends,
  'transaction of LMDB': lmdbAppends,
}
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
    const taken: [string, number[]][] = []
    for (const kind of Object.keys(kinds) as Kind[]) {
      const each = await Promise.all(Array.from({ length: processes }, () => inProcess(kind)))
      taken.push([
        `${kind}, ${processes === 1 ? 'one process' : `${processes} processes`}`,
        each.flat(),
      ])
    }
    const base = median(taken.at(-1)?.[1] ?? [])
    for (const [name, all] of taken) {
      rows.push([name, median(all), quantile(all, 0.99), median(all) / base])
    }
  }
  table(rows)
}

if (values.one === '') await measure()
else console.log(JSON.stringify(kinds[values.one as Kind](values.dir)))
