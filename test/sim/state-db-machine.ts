/**
 * The state machine of the product in the simulation: `StateDb` on files, with the real code that
 * applies commands and installs snapshots. Keys are apps, whose values are in their configuration.
 */
import { Database } from 'bun:sqlite'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { CommittedEntry } from '../../src/raft/ports.ts'
import type { ConfState } from '../../src/raft/types.ts'
import { encodeCommand } from '../../src/store/codec.ts'
import { StateDb } from '../../src/store/db.ts'
import { answerTo } from '../../src/store/disk-tasks.ts'
import type { DiskWork } from '../../src/store/disk-work.ts'
import { encodeConfState } from '../../src/store/schema.ts'
import type { MachineImage, Request, SimMachine } from './machine.ts'
import type { RegisterOutput } from './registers.ts'

/** Memory where there is such a filesystem, since all of it is written and little is read. */
const parentDir = existsSync('/dev/shm') ? '/dev/shm' : tmpdir()

export function encodeAsCommand({ seq, input }: Request): Uint8Array {
  const value = input.kind === 'read' ? '' : input.value
  const patch = { config: { value } }
  return encodeCommand({ type: 'app.update', id: input.key, atMs: seq, patch }, 2)
}

/** The files of one simulation. */
export class StateDbFiles implements Disposable {
  readonly #dir = mkdtempSync(join(parentDir, 'fnd-sim-'))
  #count = 0

  /** A state with these keys, before the first entry. */
  firstImage(confState: ConfState, keys: readonly string[]): MachineImage {
    const name = 'first'
    const path = join(this.#dir, name)
    new StateDb(path)[Symbol.dispose]()
    const db = new Database(path)
    for (const key of keys) {
      db.run(
        `INSERT INTO apps (id, name, config, annotations, syslog_url, shape, created_ms,
           updated_ms) VALUES (?, ?, '{}', '{}', '', '', 0, 0)`,
        [key, key],
      )
    }
    db.run('UPDATE meta SET conf_state = ?', [encodeConfState(confState)])
    db.run('PRAGMA wal_checkpoint(TRUNCATE)')
    db.close(true)
    return { index: 0, term: 0, confState, hash: 'first', state: name }
  }

  make(image: MachineImage): StateDbMachine {
    this.#count += 1
    const dir = join(this.#dir, `${this.#count}`)
    mkdirSync(join(dir, 'staged'), { recursive: true })
    return new StateDbMachine(this.#dir, dir, image)
  }

  [Symbol.dispose](): void {
    rmSync(this.#dir, { recursive: true, force: true })
  }
}

/** What a thread would do, in the order of the simulation. */
const atOnce: DiskWork = { ask: (request, done) => done(answerTo(request)) }

export class StateDbMachine implements SimMachine {
  readonly #imagesDir: string
  readonly #dir: string
  readonly #db: StateDb

  constructor(imagesDir: string, dir: string, image: MachineImage) {
    this.#imagesDir = imagesDir
    this.#dir = dir
    copyFileSync(join(imagesDir, String(image.state)), this.#path)
    this.#db = new StateDb(this.#path, { stagedDir: join(dir, 'staged'), thread: atOnce })
  }

  get #path(): string {
    return join(this.#dir, 'state.db')
  }

  get appliedIndex(): number {
    return this.#db.appliedIndex
  }

  get appliedTerm(): number {
    return this.#db.appliedTerm
  }

  get confState(): ConfState {
    return this.#db.confState
  }

  get hash(): string {
    return this.#db.stateHash
  }

  get(key: string): string {
    const row = this.#db.rows.get('SELECT config FROM apps WHERE id = ?', key)
    return JSON.parse(String(row?.config ?? '{}')).value ?? ''
  }

  apply(entries: readonly CommittedEntry[]): readonly (RegisterOutput | undefined)[] {
    return this.#db.apply(entries).map(outcome => {
      if (outcome?.ok === false) throw new Error(`a command came to ${outcome.code}`)
      return outcome === undefined ? undefined : { before: undefined }
    })
  }

  settle(): void {
    this.#db.settle()
  }

  /** One file for all nodes that are in this state. */
  image(): MachineImage {
    this.#db.settle()
    const { appliedIndex: index, appliedTerm: term, confState, hash } = this
    const state = `${index}-${term}-${hash}`
    const path = join(this.#imagesDir, state)
    if (!existsSync(path)) {
      const db = new Database(this.#path)
      db.run('VACUUM INTO ?', [path])
      db.close(true)
    }
    return { index, term, confState, hash, state }
  }

  become(image: MachineImage): void {
    const name = String(image.state)
    copyFileSync(join(this.#imagesDir, name), join(this.#dir, 'staged', name))
    let isDone = false
    this.#db.install(name, error => {
      if (error !== undefined) throw error
      isDone = true
    })
    if (!isDone && this.appliedIndex < image.index) throw new Error('not installed at once')
  }

  end(): void {
    this.#db[Symbol.dispose]()
    rmSync(this.#dir, { recursive: true, force: true })
  }
}
