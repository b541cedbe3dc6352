/** Objects and directories for the tests of the store. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { assert } from '../../src/errors.ts'
import type { LogWrite, StateMachine } from '../../src/raft/ports.ts'
import type { Entry } from '../../src/raft/types.ts'
import { commandVersion, encodeCommand } from '../../src/store/codec.ts'
import type { Command, NodeJoin } from '../../src/store/commands.ts'
import type { StateDb } from '../../src/store/db.ts'
import { journalBytes } from '../../src/store/journal.ts'
import { JournaledLog } from '../../src/store/log.ts'
import type { App, Fn, Trigger } from '../../src/store/objects.ts'
import { openStore, type Store, type StoreOptions } from '../../src/store/replica.ts'
import { Snapshots, type TakenSnapshot } from '../../src/store/snapshots.ts'

export function anApp(id: string, changes: Partial<App> = {}): App {
  return {
    id,
    name: `app-${id}`,
    config: {},
    annotations: {},
    syslogUrl: '',
    shape: '',
    createdMs: 1000,
    updatedMs: 1000,
    ...changes,
  }
}

export function aFn(id: string, appId: string, changes: Partial<Fn> = {}): Fn {
  return {
    id,
    name: `fn-${id}`,
    appId,
    image: 'example/hello:1',
    memoryMb: 128,
    timeoutS: 30,
    idleTimeoutS: 30,
    config: {},
    annotations: {},
    shape: '',
    createdMs: 1000,
    updatedMs: 1000,
    ...changes,
  }
}

export function aTrigger(
  id: string,
  appId: string,
  fnId: string,
  changes: Partial<Trigger> = {},
): Trigger {
  return {
    id,
    name: `trigger-${id}`,
    appId,
    fnId,
    type: 'http',
    source: `/${id}`,
    annotations: {},
    createdMs: 1000,
    updatedMs: 1000,
    ...changes,
  }
}

/** A fresh directory that is removed at the end of the `using` block. */
export function temporaryDir(): Disposable & { readonly path: string } {
  const path = mkdtempSync(join(tmpdir(), 'fnd-store-'))
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) }
}

export function openLog(
  dir: string,
  freeBytesMin = 0,
  nodeId = 1,
  fileBytes = journalBytes,
): Promise<JournaledLog> {
  const identity = () => ({ clusterId: 'c', nodeId, uuid: 'u' })
  return JournaledLog.open({ dir, identity, freeBytesMin, journalBytes: fileBytes })
}

/** With this a file of the journal is full after 31 small writes, and 4 KiB go home at once. */
export const smallJournal = 16 * 1024

export function openSmallLog(dir: string, freeBytesMin = 0): Promise<JournaledLog> {
  return openLog(dir, freeBytesMin, 1, smallJournal)
}

/**
 * Copies a log that is open as the death of its process would leave it at this moment. No write may
 * be under way, but the journal may be on its way home: LMDB leaves the pages that count untouched
 * until it writes its meta page, and when that happened meanwhile all is copied again.
 */
export function copyLog(from: string, to: string): void {
  const names = ['log.mdb', 'log-0.journal', 'log-1.journal']
  const metaPages = () => readFileSync(join(from, 'log.mdb')).subarray(0, 2 * 4096)
  for (let isSame = false; !isSame; ) {
    const before = metaPages()
    for (const name of names) writeFileSync(join(to, name), readFileSync(join(from, name)))
    isSame = metaPages().equals(before)
  }
}

/** Entries of one term, each filled with its index. */
export function entriesFrom(first: number, count: number, length = 10, term = 1): Entry[] {
  return Array.from({ length: count }, (_, at) => ({
    index: first + at,
    term,
    kind: 'normal',
    bytes: new Uint8Array(length).fill(first + at),
  }))
}

/** What is not given stays as it is; the term rises to that of the entries. */
export function writeLog(log: JournaledLog, changes: Partial<LogWrite>): Promise<void> {
  const { hardState } = log
  const term = Math.max(hardState.term, changes.entries?.at(-1)?.term ?? 0)
  const write = { entries: [], hardState: { ...hardState, term }, dropThrough: 0, ...changes }
  return new Promise((resolve, reject) => {
    log.write(write, error => {
      if (error === undefined) resolve()
      else reject(error)
    })
  })
}

/** Five entries, each a segment of its own: all that is in the journal goes home at the end. */
export async function withFive(dir: string): Promise<void> {
  for (const index of [1, 2, 3, 4, 5]) {
    const log = await openLog(dir)
    await writeLog(log, { entries: entriesFrom(index, 1) })
    await log.close()
  }
}

/** Of everything that was applied to `db`. */
export function snapshotOf(db: StateDb, database: string, dir: string): Promise<TakenSnapshot> {
  return new Snapshots({ database, settle: () => db.settle(), dir }).take()
}

export function installed(db: StateMachine, name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    db.install(name, error => (error === undefined ? resolve() : reject(error)))
  })
}

/** The entry that holds the command. */
export function entryOf(index: number, command: Command, term = 1): Entry {
  return { index, term, kind: 'normal', bytes: encodeCommand(command, commandVersion) }
}

export function aJoin(uuid: string, changes: Partial<NodeJoin> = {}): NodeJoin {
  return {
    uuid,
    name: `node-${uuid}`,
    peerAddress: `${uuid}:8081`,
    apiUrl: `http://${uuid}:8080`,
    version: '1.0.0',
    commandVersion,
    atMs: 1000,
    ...changes,
  }
}

/** A store of a group of one that leads, as the server has it soon after its start. */
export async function openAlone(options: StoreOptions): Promise<Store> {
  const store = await openStore(options)
  await store.start()
  await store.group.read(10_000)
  return store
}

/** Runs a program of the tests, kills it `forMs` after its first output, returns all of that. */
export async function outputUntilKilled(args: readonly string[], forMs: number): Promise<string> {
  const child = Bun.spawn([process.execPath, ...args], { stdout: 'pipe', stderr: 'inherit' })
  let text = ''
  const decoder = new TextDecoder()
  for await (const chunk of child.stdout) {
    if (text === '') setTimeout(() => child.kill('SIGKILL'), forMs)
    text += decoder.decode(chunk, { stream: true })
  }
  await child.exited
  assert(child.signalCode === 'SIGKILL', 'it is killed, and does not end by itself')
  return text
}
