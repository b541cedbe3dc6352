/**
 * The log beside LMDB alone, in one run: N entries of 256 bytes in one write of the log, and N puts
 * of 256 bytes at once into LMDB, flushed before they answer. The sides take turns.
 *
 * npm run bench:log -- [--rounds N] [--bytes N] [--dir PATH]
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { open } from 'lmdb'
import { JournaledLog } from '../src/store/log.ts'
import { quantile } from './figures.ts'
import { median, table } from './fnd.ts'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '400' },
    bytes: { type: 'string', default: '256' },
    dir: { type: 'string', default: tmpdir() },
  },
})
const rounds = Number(values.rounds)
const payload = new Uint8Array(Number(values.bytes)).fill(7)
const trailing = 10_000

const dir = mkdtempSync(join(values.dir, 'fnd-log-'))
mkdirSync(join(dir, 'log'))
const log = await JournaledLog.open({
  dir: join(dir, 'log'),
  identity: () => ({ clusterId: 'bench', nodeId: 1, uuid: 'bench' }),
  freeBytesMin: 64 * 1024 * 1024,
})
const raw = open<Uint8Array, number>({
  path: join(dir, 'raw.mdb'),
  encoding: 'binary',
  noSubdir: true,
  overlappingSync: false,
})
let rawKey = 0

function writeLog(count: number): Promise<void> {
  const base = log.lastIndex + 1
  const entries = Array.from({ length: count }, (_, at) => ({
    index: base + at,
    term: 1,
    kind: 'normal' as const,
    bytes: payload,
  }))
  const hardState = { term: 1, vote: 1, commit: log.lastIndex }
  const dropThrough = Math.max(0, log.lastIndex - trailing)
  return new Promise((resolve, reject) => {
    log.write({ entries, hardState, dropThrough }, error => {
      if (error === undefined) resolve()
      else reject(error)
    })
  })
}

async function writeRaw(count: number): Promise<void> {
  await Promise.all(Array.from({ length: count }, () => raw.put(rawKey++, payload)))
}

async function timed(write: () => Promise<void>): Promise<number> {
  const startedMs = performance.now()
  await write()
  return performance.now() - startedMs
}

try {
  const rows: (string | number)[][] = []
  for (const count of [1, 64, 256]) {
    const times: { log: number[]; raw: number[] } = { log: [], raw: [] }
    for (let round = 0; round < rounds; round += 1) {
      times.log.push(await timed(() => writeLog(count)))
      times.raw.push(await timed(() => writeRaw(count)))
    }
    const [logMs, rawMs] = [median(times.log), median(times.raw)]
    rows.push([
      count,
      logMs,
      quantile(times.log, 0.99),
      rawMs,
      quantile(times.raw, 0.99),
      Math.round((count * 1000) / logMs),
      Math.round((count * 1000) / rawMs),
      rawMs / logMs,
    ])
  }
  console.log(`entries of ${payload.length} bytes, ${rounds} rounds; rate of the log ÷ of LMDB\n`)
  table([['at once', 'log ms', 'p99', 'LMDB ms', 'p99', 'log /s', 'LMDB /s', 'ratio'], ...rows])
} finally {
  await log.close()
  await raw.close()
  rmSync(dir, { recursive: true, force: true })
}
