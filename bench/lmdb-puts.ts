/**
 * What LMDB alone does on this disk, flushed: the program that `bench:cluster` measures fnd's
 * single node beside. `each <n> <ms>`: a transaction and its flush for each put, one after the
 * other, whatever n is. `batch <n> <ms>`: n writers that each wait for theirs, in one process.
 * `serve <port>`: the same behind the runtime's own HTTP server, until it is ended.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { open, type RootDatabase } from 'lmdb'

export interface PutsResult {
  readonly perSecond: number
  readonly p99Ms: number
}

const valueBytes = 256

function openDatabase(dir: string): RootDatabase<Uint8Array, number> {
  return open<Uint8Array, number>({
    path: join(dir, 'puts.mdb'),
    encoding: 'binary',
    mapSize: 4 * 1024 ** 3,
    noSubdir: true,
    // As in fnd's log: a put resolves after its flush.
    overlappingSync: false,
  })
}

async function puts(
  database: RootDatabase<Uint8Array, number>,
  isEach: boolean,
  writers: number,
  durationMs: number,
): Promise<PutsResult> {
  const latencies: number[] = []
  const value = new Uint8Array(valueBytes).fill(118)
  let key = 0
  const startMs = performance.now()
  const endMs = startMs + durationMs
  const writer = async () => {
    for (let atMs = performance.now(); atMs < endMs; ) {
      key += 1
      if (isEach) database.putSync(key, value)
      else await database.put(key, value)
      const nowMs = performance.now()
      latencies.push(nowMs - atMs)
      atMs = nowMs
    }
  }
  await Promise.all(Array.from({ length: isEach ? 1 : writers }, writer))
  const elapsedMs = performance.now() - startMs
  latencies.sort((a, b) => a - b)
  const p99Ms = latencies[Math.floor(latencies.length * 0.99)] ?? Number.NaN
  return { perSecond: (key / elapsedMs) * 1000, p99Ms }
}

function serve(database: RootDatabase<Uint8Array, number>, port: number): void {
  let key = 0
  Bun.serve({
    port,
    hostname: '127.0.0.1',
    async fetch(request) {
      const body = await request.json()
      key += 1
      await database.put(key, Buffer.from(JSON.stringify(body)))
      return Response.json(body)
    },
  })
}

if (import.meta.main) {
  const dir = mkdtempSync(join(tmpdir(), 'fnd-bench-lmdb-'))
  const database = openDatabase(dir)
  const [mode, first, second] = process.argv.slice(2)
  if (mode === 'serve') {
    serve(database, Number(first))
    process.on('SIGTERM', () => {
      rmSync(dir, { recursive: true, force: true })
      process.exit(0)
    })
  } else {
    console.log(
      JSON.stringify(await puts(database, mode === 'each', Number(first), Number(second))),
    )
    await database.close()
    rmSync(dir, { recursive: true, force: true })
  }
}
