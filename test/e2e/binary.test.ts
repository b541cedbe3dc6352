/** The executable alone: what it needs of the machine, and what it leaves there. */
import { describe, expect, test } from 'bun:test'
import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import manifest from '../../package.json' with { type: 'json' }
import { BareMachine, binary, libraryNames } from './bare-machine.ts'

const timeoutMs = 120_000

describe('the executable', () => {
  test('asks the machine for nothing but libc', () => {
    const libc = /^(ld-(linux|musl)|lib(c|m|pthread|dl|rt)\.)/
    expect(libraryNames().filter(name => !libc.test(name))).toEqual([])
  })

  test('prints version and commit where there is only libc', async () => {
    using machine = new BareMachine()
    const { code, stdout, stderr } = await machine.run('--version')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toContain(manifest.version)
    expect(stdout).toMatch(/\b[0-9a-f]{7,}\b|unknown/)
  })

  test(
    'serves and runs a deployed function where there is only libc',
    async () => {
      using machine = new BareMachine()
      const url = await machine.serve('--data', '/app/data')
      const code = 'export default () => "hello from " + typeof Bun'
      writeFileSync(join(machine.root, 'app/hello.ts'), code)
      const deployed = await machine.run(
        'deploy',
        'hello.ts',
        '--json',
        '--url',
        url,
        '--token',
        await Bun.file(join(machine.root, 'app/data/admin.token')).text(),
      )
      expect({ code: deployed.code, stderr: deployed.stderr }).toMatchObject({ code: 0 })
      const health = await fetch(`${url}/healthz`)
      expect(health.status).toBe(200)
      const { invoke_url: invokeUrl } = JSON.parse(deployed.stdout) as { invoke_url: string }
      const answer = await fetch(invokeUrl, { method: 'POST' })
      expect({ status: answer.status, body: await answer.text() }).toEqual({
        status: 200,
        body: 'hello from object',
      })
    },
    timeoutMs,
  )

  test(
    'refuses a data directory that another fnd serves',
    async () => {
      using machine = new BareMachine()
      await machine.serve('--data', '/app/data')
      const second = await machine.run('serve', '--data', '/app/data', '--listen', '127.0.0.1:0')
      expect(second.code).not.toBe(0)
      expect(second.stderr).toContain('/app/data')
    },
    timeoutMs,
  )

  test('takes nothing from the directory it is started in', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fnd-cwd-'))
    try {
      const trap = join(folder, 'trap.ts')
      writeFileSync(trap, `require('node:fs').writeFileSync('${join(folder, 'sprung')}', '')`)
      writeFileSync(join(folder, 'bunfig.toml'), `preload = ["${trap}"]\n`)
      writeFileSync(join(folder, '.env'), 'FND_LISTEN=not-an-address\n')
      writeFileSync(join(folder, 'package.json'), '{ "name": "other", "version": "99.0.0" }')
      cpSync(trap, join(folder, 'node_modules/msgpackr-extract/index.js'))
      const child = Bun.spawn([binary, '--version'], { cwd: folder, stdout: 'pipe', env: {} })
      const text = await new Response(child.stdout).text()
      expect(await child.exited).toBe(0)
      expect(text).toContain(manifest.version)
      expect(existsSync(join(folder, 'sprung'))).toBe(false)
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })

  test(
    'leaves nothing of its own in the temporary directory',
    async () => {
      using machine = new BareMachine()
      await machine.serve('--data', '/app/data')
      // Bun's C compiler keeps its own headers there, in a directory that it checks; fnd's C
      // includes none of them.
      const own = /^bun-cc-\d+$/
      const left = readdirSync(join(machine.root, 'tmp')).filter(name => !own.test(name))
      expect(left).toEqual([])
    },
    timeoutMs,
  )
})
