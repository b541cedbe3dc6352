/**
 * `npm test`: types, format and lint, the build, then every `*.test.ts`, each file in a process of
 * its own. Ends with one line, `N passed, N failed`, and fails when a step or a test fails, when a
 * test is skipped (what is not tested here is not known to work here) or when none ran.
 * Arguments are parts of paths: only files whose path contains one of them are run.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { parseArgs } from 'node:util'
import { Glob, type Subprocess } from 'bun'

const root = join(import.meta.dir, '..')
const bun = process.execPath
const fileTimeoutMs = 10 * 60_000
const testTimeoutMs = 60_000

interface Outcome {
  readonly name: string
  readonly passed: number
  readonly failed: number
  readonly output: string
  readonly ms: number
}

interface RunResult {
  readonly code: number
  readonly output: string
  readonly isTimeout: boolean
}

const running = new Set<Subprocess>()

async function run(command: readonly string[], timeoutMs: number): Promise<RunResult> {
  const child = Bun.spawn([...command], {
    cwd: root,
    stdin: 'ignore',
    stdout: 'pipe',
    stderr: 'pipe',
    env: { ...process.env, NO_COLOR: '1', npm_config_update_notifier: 'false' },
  })
  running.add(child)
  let isTimeout = false
  const timer = setTimeout(() => {
    isTimeout = true
    child.kill('SIGKILL')
  }, timeoutMs)
  const chunks: Uint8Array[] = []
  const collect = async (stream: ReadableStream<Uint8Array>) => {
    for await (const chunk of stream) chunks.push(chunk)
  }
  const ended = Promise.all([collect(child.stdout), collect(child.stderr)])
  const code = await child.exited
  clearTimeout(timer)
  // A process that a test left behind may hold the pipes open; it is not waited for.
  await Promise.race([ended, Bun.sleep(2000)])
  running.delete(child)
  return { code, output: Buffer.concat(chunks).toString().trim(), isTimeout }
}

async function runStep(name: string, command: readonly string[]): Promise<Outcome> {
  const startedMs = performance.now()
  const { code, output } = await run(command, fileTimeoutMs)
  const ms = performance.now() - startedMs
  return { name, passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1, output, ms }
}

function countOf(report: string, attribute: string): number {
  const element = /<testsuites [^>]*>/.exec(report)?.[0] ?? ''
  return Number(new RegExp(`\\b${attribute}="(\\d+)"`).exec(element)?.[1] ?? 0)
}

async function runFile(path: string, folder: string): Promise<Outcome> {
  const name = relative(root, path)
  const reportPath = join(folder, `${name.replaceAll('/', '-')}.xml`)
  const startedMs = performance.now()
  const { code, output, isTimeout } = await run(
    [
      bun,
      'test',
      `./${name}`,
      `--timeout=${testTimeoutMs}`,
      '--reporter=junit',
      `--reporter-outfile=${reportPath}`,
    ],
    fileTimeoutMs,
  )
  const ms = performance.now() - startedMs
  const report = existsSync(reportPath) ? readFileSync(reportPath, 'utf8') : ''
  const total = countOf(report, 'tests')
  const skipped = countOf(report, 'skipped')
  const failed = countOf(report, 'failures') + skipped
  const notes: string[] = []
  if (isTimeout) notes.push(`${name} was ended after ${fileTimeoutMs / 1000} s`)
  if (skipped > 0) notes.push(`${name} skipped ${skipped} tests; that counts as a failure`)
  if (total === 0) notes.push(`${name} ran no test`)
  if (code !== 0) notes.push(`exit code ${code}`)
  // A crash, or a fault outside of tests, has an exit code but no failed test of its own.
  const isBroken = code !== 0 || total === 0
  return {
    name,
    passed: Math.max(0, total - failed),
    failed: failed === 0 && isBroken ? 1 : failed,
    output: [output, ...notes].join('\n'),
    ms,
  }
}

function report(outcome: Outcome): void {
  const { name, passed, failed, output, ms } = outcome
  const seconds = `${(ms / 1000).toFixed(1)} s`
  if (failed === 0) {
    console.log(`ok    ${name}: ${passed} passed, ${seconds}`)
    return
  }
  console.log(`\nFAIL  ${name}: ${passed} passed, ${failed} failed, ${seconds}\n${output}\n`)
}

async function runAll(paths: readonly string[], lanes: number): Promise<Outcome[]> {
  const folder = mkdtempSync(join(tmpdir(), 'fnd-test-'))
  const outcomes: Outcome[] = []
  const queue = [...paths]
  const lane = async () => {
    for (let path = queue.shift(); path !== undefined; path = queue.shift()) {
      const outcome = await runFile(path, folder)
      report(outcome)
      outcomes.push(outcome)
    }
  }
  await Promise.all(Array.from({ length: lanes }, lane))
  rmSync(folder, { recursive: true, force: true })
  return outcomes
}

function testFiles(parts: readonly string[]): string[] {
  return [...new Glob('test/**/*.test.ts').scanSync({ cwd: root, absolute: true })]
    .filter(path => parts.length === 0 || parts.some(part => relative(root, path).includes(part)))
    .sort()
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { 'only-tests': { type: 'boolean' } },
  })
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      for (const child of running) child.kill('SIGKILL')
      process.exit(130)
    })
  }
  if (process.getuid?.() !== 0) {
    console.log(
      'Not root: the tests of isolation, of the chroot and of cgroups need root and FAIL.',
    )
  }
  const outcomes: Outcome[] = []
  const steps: readonly [string, readonly string[]][] = [
    ['types', ['node', 'node_modules/typescript/bin/tsc', '--noEmit']],
    [
      'format and lint',
      ['node', 'node_modules/@biomejs/biome/bin/biome', 'check', '--error-on-warnings'],
    ],
    ['build', [bun, 'build.ts']],
  ]
  for (const [name, command] of values['only-tests'] === true ? [] : steps) {
    const outcome = await runStep(name, command)
    report(outcome)
    outcomes.push(outcome)
  }
  const paths = testFiles(positionals)
  // End-to-end tests start servers and functions, and measure memory: one at a time.
  const isHeavy = (path: string) => /\/test\/(cluster-)?e2e\//.test(path)
  outcomes.push(
    ...(await runAll(
      paths.filter(path => !isHeavy(path)),
      2,
    )),
  )
  outcomes.push(...(await runAll(paths.filter(isHeavy), 1)))
  const sum = (pick: (outcome: Outcome) => number) =>
    outcomes.reduce((total, outcome) => total + pick(outcome), 0)
  const broken = outcomes.filter(({ failed }) => failed > 0)
  if (broken.length > 0) console.log(`\nFailed: ${broken.map(({ name }) => name).join(', ')}`)
  if (paths.length === 0) console.log('No test file matches.')
  const passed = sum(outcome => outcome.passed)
  const failed = sum(outcome => outcome.failed) + (paths.length === 0 ? 1 : 0)
  console.log(`${passed} passed, ${failed} failed`)
  return failed === 0 ? 0 : 1
}

process.exit(await main())
