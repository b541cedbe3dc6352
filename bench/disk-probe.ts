/**
 * How long the disk itself takes to flush, beside what a bench measures: members that share one
 * disk wait together when it stands still, and no choice among them helps.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

interface Flush {
  readonly fromMs: number
  readonly untilMs: number
}

const sector = Buffer.alloc(512, 1)
/** Shorter than a standstill that counts, and long enough to take nothing from the members. */
const restMs = 20

/** Writes a sector of a file and flushes it, again and again, where the members are. */
export class DiskProbe implements AsyncDisposable {
  readonly #dir: string
  readonly #flushes: Flush[] = []
  readonly #probing: Promise<void>
  #isOver = false

  private constructor(dir: string, file: FileHandle) {
    this.#dir = dir
    this.#probing = this.#probe(file)
  }

  static async start(): Promise<DiskProbe> {
    const dir = mkdtempSync(join(tmpdir(), 'fnd-probe-'))
    return new DiskProbe(dir, await open(join(dir, 'file'), 'w'))
  }

  async #probe(file: FileHandle): Promise<void> {
    while (!this.#isOver) {
      const fromMs = performance.now()
      await file.write(sector, 0, sector.length, 0)
      await file.datasync()
      this.#flushes.push({ fromMs, untilMs: performance.now() })
      await Bun.sleep(restMs)
    }
    await file.close()
  }

  /** Milliseconds of the longest flush that was under way between the two times and has ended. */
  longestMs(fromMs: number, untilMs: number): number {
    const touching = this.#flushes.filter(one => one.fromMs <= untilMs && one.untilMs >= fromMs)
    return Math.max(0, ...touching.map(one => one.untilMs - one.fromMs))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true
    await this.#probing
    rmSync(this.#dir, { recursive: true })
  }
}
