/** Opens process drivers for tests: bundles are directories made on the spot. */
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { readConfig } from '../../src/config.ts'
import { assert } from '../../src/errors.ts'
import type { OutputSink } from '../../src/exec/driver.ts'
import { ProcessDriver, type RunnableBundle } from '../../src/exec/process.ts'

export const fixtures = join(import.meta.dir, 'fixtures')

/** A data directory with bundles by name. */
export class Place {
  readonly dataDir = mkdtempSync(join(tmpdir(), 'fnd-driver-'))
  readonly #bundles = new Map<string, RunnableBundle>()

  /** A bundle of files (name → text); the image that names it. */
  bundle(name: string, entry: string, files: Record<string, string>, kind = 'module'): string {
    const dir = join(this.dataDir, 'bundles', name)
    for (const [file, text] of Object.entries(files)) {
      mkdirSync(dirname(join(dir, file)), { recursive: true })
      writeFileSync(join(dir, file), text, { mode: 0o755 })
    }
    assert(kind === 'module' || kind === 'program', 'a bundle is one of two kinds')
    this.#bundles.set(name, { dir, manifest: { kind, entry } })
    return `bundle:${name}`
  }

  fixture(file: string): string {
    const dir = join(this.dataDir, 'bundles', file)
    mkdirSync(dir, { recursive: true })
    cpSync(join(fixtures, file), join(dir, file))
    this.#bundles.set(file, { dir, manifest: { kind: 'module', entry: file } })
    return `bundle:${file}`
  }

  open(options: {
    readonly output: OutputSink
    readonly env?: Record<string, string>
    readonly levelMax?: 'namespaces' | 'process'
    /** Brings bundles that are not there yet. */
    readonly ensure?: (name: string) => Promise<unknown>
  }): Promise<ProcessDriver> {
    const read = readConfig({}, options.env ?? {})
    assert(read.ok, 'the configuration of a test is valid')
    return ProcessDriver.open({
      dataDir: this.dataDir,
      config: read.config.exec,
      version: '0.0.1',
      bundles: {
        get: hash => this.#bundles.get(hash),
        ...(options.ensure === undefined ? {} : { ensure: options.ensure }),
      },
      output: options.output,
      onSparesGivenUp: detail => {
        throw new Error(`spares do not start: ${detail}`)
      },
      levelMax: options.levelMax ?? 'namespaces',
    })
  }

  remove(): void {
    rmSync(this.dataDir, { recursive: true, force: true })
  }
}
