/**
 * Snapshots that this node receives. A whole one lies in the directory under its name, which holds
 * its hash; what is on its way has `.part` behind it. Nothing is ever taken from here that was not
 * hashed whole after its last byte was on the disk.
 */
import { mkdirSync, readdirSync, renameSync, rmSync, statfsSync, statSync } from 'node:fs'
import { open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { FndError } from '../errors.ts'
import type { Snapshot } from '../raft/types.ts'
import { DiskThread } from './disk-work.ts'
import { fsyncDir, writeAll } from './fsync.ts'
import { describeSnapshot, snapshotName, snapshotNameFrom } from './snapshot-file.ts'
import { contentsOf } from './snapshot-frames.ts'

const partEnd = '.part'
/** A snapshot that was staged is being installed or about to be while the next ones arrive. */
const wholeMax = 3

export interface StagingOptions {
  /** Where the state machine looks for what it installs. */
  readonly dir: string
  /** The log's `installing`: everything else in the directory is removed. */
  readonly keep: string
  /** Snapshots are refused that would leave less room than this. */
  readonly freeBytesMin: number
  /** Hashes what was received. */
  readonly thread?: DiskThread
}

export interface Offer {
  readonly name: string
  /** Of the whole snapshot. */
  readonly bytes: number
}

export class Staging {
  readonly #dir: string
  readonly #freeBytesMin: number
  readonly #thread: DiskThread
  #isReceiving = false

  constructor({ dir, keep, freeBytesMin, thread = new DiskThread() }: StagingOptions) {
    this.#thread = thread
    this.#dir = dir
    this.#freeBytesMin = freeBytesMin
    mkdirSync(dir, { recursive: true, mode: 0o700 })
    for (const name of readdirSync(dir)) if (name !== keep) rmSync(join(dir, name))
  }

  /** How much of it is here: where the sender may go on. */
  receivedBytes(name: string): number {
    snapshotNameFrom(name)
    return sizeOf(join(this.#dir, name)) ?? sizeOf(join(this.#dir, name + partEnd)) ?? 0
  }

  /**
   * Takes the frames of the snapshot from `fromOffset` on, which is what `receivedBytes` told.
   * Resolves when it may be installed, which survives a power loss. Rejects with `FndError`:
   * `snapshot-invalid`, `disk-full`, `write-overload` while another one arrives.
   */
  async receive(
    offer: Offer,
    fromOffset: number,
    stream: AsyncIterable<Uint8Array>,
  ): Promise<Snapshot> {
    const { index, term } = snapshotNameFrom(offer.name)
    if (this.#isReceiving) throw new FndError('write-overload', { detail: 'another snapshot' })
    this.#isReceiving = true
    try {
      const path = join(this.#dir, offer.name)
      if (sizeOf(path) === undefined) await this.#receive(offer, fromOffset, stream)
      const { confState } = describeSnapshot(path)
      return { index, term, confState, data: offer.name }
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException
      if (code === 'ENOSPC' || code === 'EDQUOT') throw new FndError('disk-full', { cause })
      throw cause
    } finally {
      this.#isReceiving = false
    }
  }

  async #receive(offer: Offer, fromOffset: number, stream: AsyncIterable<Uint8Array>) {
    const part = join(this.#dir, offer.name + partEnd)
    await this.#makeRoom(offer)
    if (fromOffset !== (sizeOf(part) ?? 0)) {
      throw new FndError('snapshot-invalid', { detail: `it does not go on at ${fromOffset}` })
    }
    const file = await open(part, 'a+', 0o600)
    try {
      let bytes = fromOffset
      for await (const piece of contentsOf(stream)) {
        bytes += piece.length
        if (bytes > offer.bytes) throw new FndError('snapshot-invalid', { detail: 'too long' })
        await writeAll(file, piece)
      }
      if (bytes < offer.bytes) {
        throw new FndError('snapshot-invalid', { detail: `${bytes} of ${offer.bytes} bytes` })
      }
      await file.sync()
    } finally {
      await file.close()
    }
    await this.#mustBeWhatItIsCalled(part, offer.name).catch(async cause => {
      // Not to be gone on with.
      await rm(part, { force: true })
      throw cause
    })
    renameSync(part, join(this.#dir, offer.name))
    await fsyncDir(this.#dir)
  }

  /** Parts of others are of senders that gave up, and of the whole ones only the newest matter. */
  async #makeRoom({ name, bytes }: Offer): Promise<void> {
    const whole: string[] = []
    for (const other of readdirSync(this.#dir)) {
      if (!other.endsWith(partEnd)) whole.push(other)
      else if (other !== name + partEnd) await rm(join(this.#dir, other))
    }
    const age = (other: string) => statSync(join(this.#dir, other)).mtimeMs
    whole.sort((a, b) => age(b) - age(a))
    for (const old of whole.slice(wholeMax - 1)) await rm(join(this.#dir, old))
    const { bavail, bsize } = statfsSync(this.#dir)
    if (bavail * bsize - bytes < this.#freeBytesMin) throw new FndError('disk-full')
  }

  /** Throws `FndError` `snapshot-invalid` when hash, index or term are not those of the name. */
  async #mustBeWhatItIsCalled(path: string, name: string): Promise<void> {
    const hashed = await this.#thread.whenDone({ kind: 'hash', path })
    if (!hashed.ok) throw new FndError('snapshot-invalid', { detail: hashed.message })
    if (hashed.sha256 !== snapshotNameFrom(name).sha256) {
      throw new FndError('snapshot-invalid', { detail: 'it does not have its hash' })
    }
    if (snapshotName({ ...describeSnapshot(path), sha256: hashed.sha256 }) !== name) {
      throw new FndError('snapshot-invalid', { detail: 'it is not of the index in its name' })
    }
  }
}

function sizeOf(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.size
}
