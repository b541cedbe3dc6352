/** Objects and directories for the tests of the store. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { App, Fn, Trigger } from '../../src/store/objects.ts'

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
