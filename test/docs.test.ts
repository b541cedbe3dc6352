/** What the reference pages claim, held against the code and the running node. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pino from 'pino'
import { readConfig } from '../src/config.ts'
import { type ErrorCode, FndError } from '../src/errors.ts'
import { isolationOf } from '../src/exec/isolation.ts'
import { type FndNode, startNode } from '../src/node.ts'

const root = join(import.meta.dir, '..')
const textOf = (path: string) => readFileSync(join(root, path), 'utf8')
const functionsPage = textOf('docs/functions.md')
const apiPage = textOf('docs/http-api.md')
const dir = mkdtempSync(join(tmpdir(), 'fnd-docs-'))
let node: FndNode

beforeAll(async () => {
  const read = readConfig(
    {},
    {
      FND_DATA: join(dir, 'data'),
      FND_LISTEN: '127.0.0.1:0',
      FND_SPARE_WORKERS: '0',
      XDG_STATE_HOME: join(dir, 'state'),
    },
  )
  if (!read.ok) throw new Error(read.faults.join('; '))
  node = await startNode(read.config, pino({ level: 'silent' }))
})

afterAll(async () => {
  await node.stop()
  rmSync(dir, { recursive: true, force: true })
})

describe('docs/functions.md', () => {
  const rows = [...functionsPage.matchAll(/^\| (\d{3}) \| `([a-z-]+)` \| (.+?) \| /gm)]

  test('each row of the error table is as the code has it', () => {
    const faults = rows.filter(([, status, code, message]) => {
      const error = new FndError(code as ErrorCode)
      return error.status !== Number(status) || error.message !== message
    })
    expect(rows.length).toBeGreaterThan(20)
    expect(faults.map(([row]) => row)).toEqual([])
  })

  test('it lists every error that ends a call', () => {
    const section = textOf('src/errors.ts').split('// Calls.\n')[1]?.split('} as const')[0] ?? ''
    const codes = [...section.matchAll(/^ {2}'?([a-z-]+)'?: \{/gm)].map(([, code = '']) => code)
    const listed = new Set(rows.map(([, , code]) => code))
    // Stops the start of fnd; and nobody is left to read that the caller left.
    const elsewhere = new Set(['isolation-missing', 'client-gone'])
    expect(codes.length).toBeGreaterThan(10)
    expect(codes.filter(code => !listed.has(code) && !elsewhere.has(code))).toEqual([])
  })

  /** The examples by the name in their first line. */
  const examples = new Map(
    [...functionsPage.matchAll(/^```\w+\n\/\/ (\S+)\n([\s\S]*?)^```/gm)].map(
      ([, name = '', text = '']): [string, string] => [name, text],
    ),
  )

  async function answerOf(args: readonly string[]): Promise<string> {
    const child = Bun.spawn([process.execPath, join(root, 'src/main.ts'), 'run', ...args], {
      cwd: dir,
      env: { ...process.env, XDG_STATE_HOME: join(dir, 'state') },
      stderr: 'pipe',
    })
    const [text, problems] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ])
    expect({ code: await child.exited, problems }).toMatchObject({ code: 0 })
    return text
  }

  function written(name: string): string {
    const path = join(dir, name)
    writeFileSync(path, examples.get(name) ?? '', { mode: 0o755 })
    return path
  }

  test('the examples of modules answer', async () => {
    expect(JSON.parse(await answerOf([written('fetch.ts'), '-d', 'abc']))).toMatchObject({
      method: 'POST',
      text: 'abc',
    })
    expect(JSON.parse(await answerOf([written('handler.ts'), '-d', '[1,2,3]']))).toEqual({ sum: 6 })
  }, 60_000)

  test('the example program in Node answers', async () => {
    const text = await answerOf(['--exec', written('program.mjs'), '-d', 'abc'])
    expect(text).toContain('hello from program, 3 bytes')
  }, 60_000)

  test('the example program in C answers, where there is a compiler', async () => {
    const compiler = Bun.which('cc')
    if (compiler === null) return
    const binary = join(dir, 'c-program')
    const flags = ['-Wall', '-Wextra', '-Werror', '-o', binary]
    expect(Bun.spawnSync([compiler, ...flags, written('program.c')]).exitCode).toBe(0)
    expect(await answerOf(['--exec', binary, '-d', 'abc'])).toBe('hello, I got 3 bytes\n')
  }, 60_000)
})

describe('docs/http-api.md', () => {
  test('it lists every route that a node serves, and no other', async () => {
    const answer = await fetch(`${node.url}/fnd/openapi.json`)
    const { paths } = (await answer.json()) as { paths: Record<string, Record<string, object>> }
    const served = Object.entries(paths).flatMap(([path, methods]) => {
      const names = Object.keys(methods).map(method => method.toUpperCase())
      return names.includes('PATCH') ? [`ANY ${path}`] : names.map(name => `${name} ${path}`)
    })
    const listed = new Set(
      [...apiPage.matchAll(/`((?:ANY|GET|HEAD|POST|PUT|DELETE) \/[^`]*)`/g)].map(([, one]) => one),
    )
    expect(served.length).toBeGreaterThan(20)
    expect(served.filter(route => !listed.has(route))).toEqual([])
    expect([...listed].filter(route => !served.includes(route ?? ''))).toEqual([])
  })

  test('it lists every metric of a node, and no other of fnd', async () => {
    const text = await (await fetch(`${node.url}/metrics`)).text()
    const served = [...text.matchAll(/^# HELP (\S+)/gm)].map(([, name = '']) => name)
    const listed = new Set(apiPage.match(/\b(?:fnd?|process)_[a-z_]+\b/g) ?? [])
    expect(served.length).toBeGreaterThan(30)
    expect(served.filter(name => !listed.has(name))).toEqual([])
    const known = new Set([...served, 'fn_id'])
    const others = [...listed].filter(name => !known.has(name))
    expect(others).toEqual([])
  })

  test('it lists every setting, and no other', () => {
    const settings = /\bfnd\.io\/[a-z-]+/g
    const known = new Set(textOf('src/store/settings.ts').match(settings) ?? [])
    const listed = new Set(apiPage.match(settings) ?? [])
    expect(known.size).toBeGreaterThan(4)
    expect([...known].filter(name => !listed.has(name))).toEqual([])
    expect([...listed].filter(name => !known.has(name))).toEqual([])
  })
})

test('docs/isolation.md names every measure that the doctor names', () => {
  const page = textOf('docs/isolation.md')
  const { measures } = isolationOf({
    level: 'namespaces',
    hasMemoryGroup: true,
    hasSeccomp: true,
    hasPidsGroup: true,
    limits: { pidsMax: 1, openFilesMax: 1, tmpBytesMax: 1 },
    refusals: { namespaces: '', cgroups: '' },
    network: 'host',
  })
  expect(measures.map(({ name }) => name).filter(name => !page.includes(`\`${name}\``))).toEqual([])
})

test('docs/benchmarks.md names the command of every bench', () => {
  const page = textOf('docs/benchmarks.md')
  const { scripts } = JSON.parse(textOf('package.json')) as { scripts: Record<string, string> }
  const benches = Object.entries(scripts).filter(([name]) => name.startsWith('bench:'))
  const missing = benches.filter(
    ([name, command]) =>
      !page.includes(`npm run ${name}`) || !existsSync(join(root, command.split(' ').at(-1) ?? '')),
  )
  expect(benches.length).toBeGreaterThan(3)
  expect(missing).toEqual([])
})

test('docs/clusters.md explains every warning of fnd status, and no other', () => {
  const known = new Set(
    [...textOf('src/cluster/advice.ts').matchAll(/code: (?:isVoter \? )?'([a-z-]+)'/g)].map(
      ([, code]) => code,
    ),
  )
  known.add('node-down')
  const section = textOf('docs/clusters.md').split('| warning | |\n')[1]?.split('\n\n')[0] ?? ''
  const rows = [...section.matchAll(/^\| (`.*?`) \|/gm)].map(([, codes = '']) => codes)
  const listed = new Set(rows.flatMap(codes => codes.split(', ').map(code => code.slice(1, -1))))
  expect(known.size).toBeGreaterThan(8)
  expect([...known].sort()).toEqual([...listed].sort())
})
