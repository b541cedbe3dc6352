import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type FixtureServer, startFixtureServer } from './fixture-server.ts'
import { bareEnv, runCli } from './run-cli.ts'

// Each test starts processes, on a machine that may be busy with others.
setDefaultTimeout(60_000)

let server: FixtureServer
let dir: string

beforeAll(() => {
  server = startFixtureServer()
  server.rows.apps.push({ id: 'app1', name: 'shop' }, { id: 'app2', name: 'blog' })
  server.rows.fns.push({ id: 'fn1', name: 'pay', app_id: 'app1' })
  server.rows.triggers.push({ id: 't1', name: 'hook', app_id: 'app1', fn_id: 'fn1' })
  dir = mkdtempSync(join(tmpdir(), 'fnd-completion-'))
  // A command named fnd, as the scripts call it.
  const main = join(import.meta.dir, '..', '..', 'src', 'main.ts')
  writeFileSync(join(dir, 'fnd'), `#!/bin/sh\nexec '${process.execPath}' '${main}' "$@"\n`)
  chmodSync(join(dir, 'fnd'), 0o755)
  writeFileSync(join(dir, 'source.ts'), '')
})
afterAll(() => {
  server[Symbol.dispose]()
  rmSync(dir, { recursive: true })
})

describe('fnd complete', () => {
  const cases: [words: string[], values: string[], ending: string][] = [
    [['dep'], ['deploy'], 'space'],
    [['trig'], ['triggers'], 'space'],
    [['config', ''], ['list', 'get', 'set', 'unset', 'help'], 'space'],
    [['deploy', '--mem'], ['--memory'], 'space'],
    [['deploy', '--network', ''], ['host', 'none'], 'space'],
    [['deploy', '--network=n'], ['--network=none'], 'space'],
    [['deploy', '--network', '=', 'n'], ['none'], 'space'],
    [['deploy', '--network', '='], ['host', 'none'], 'space'],
    [['deploy', ''], [], 'files'],
    [['serve', '--data', ''], [], 'files'],
    [['deploy', '--app', ''], ['blog', 'shop'], 'space'],
    [['apps', 'show', 's'], ['shop'], 'space'],
    [['call', ''], ['blog/', 'shop/'], 'more'],
    [['call', 'shop/'], ['shop/pay'], 'space'],
    [['call', '-d', 'x', 'shop/p'], ['shop/pay'], 'space'],
    [['call', 'shop/pay', ''], [], 'space'],
    [['call', 'nowhere/'], [], 'space'],
    [['config', 'set', 'sh'], ['shop', 'shop/'], 'more'],
    [['triggers', 'show', 'shop/pay/'], ['shop/pay/hook'], 'space'],
    [['completion', ''], ['bash', 'zsh', 'fish'], 'space'],
    [['--url', 'http://127.0.0.1:1', 'call', ''], [], 'more'],
  ]
  for (const [words, values, ending] of cases) {
    test(words.join(' '), async () => {
      const { stdout } = await runCli(['complete', '--', ...words], { server })
      const lines = stdout.trimEnd().split('\n')
      expect(lines.at(-1)).toBe(`:${ending}`)
      expect(lines.slice(0, -1).map(line => line.split('\t')[0] ?? '')).toEqual(values)
    })
  }
})

async function shell(command: string[], input = ''): Promise<{ out: string; code: number }> {
  const env = { ...bareEnv({ server }), PATH: `${dir}:/usr/bin:/bin`, HOME: dir, TERM: 'dumb' }
  const child = Bun.spawn(command, { env, cwd: dir, stdin: new Blob([input]), stderr: 'pipe' })
  const [out, faults, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ])
  expect(faults).toBe('')
  return { out, code }
}

describe('in the shells', () => {
  const bash = (words: string) => {
    const count = words.split(' ').length
    return shell([
      'bash',
      '--norc',
      '-c',
      `source <(fnd completion bash); source <(fnd completion bash)
       COMP_WORDS=(fnd ${words}); COMP_CWORD=${count}
       _fnd_complete; printf '%s\\n' "\${COMPREPLY[@]}"`,
    ])
  }

  test('bash', async () => {
    expect(await bash('dep')).toEqual({ out: 'deploy\n', code: 0 })
    expect(await bash('call shop/')).toEqual({ out: 'shop/pay\n', code: 0 })
    expect(await bash('deploy sou')).toEqual({ out: '\n', code: 0 })
  })

  test('bash: what is typed is not run', async () => {
    await bash(`call '$(touch${'$'}{IFS}ran)'`)
    expect(await Bun.file(join(dir, 'ran')).exists()).toBe(false)
  })

  test('zsh', async () => {
    // The completion system runs inside a line editor only, so what it is given is looked at.
    const script = `autoload -Uz compinit && compinit -u -d '${dir}/dump'
      source <(fnd completion zsh)
      print -r -- "\${_comps[fnd]}"
      _describe() { shift 2; print -r -- "\${(P@)2}" "\${@[3,-1]}"; }
      _files() { print files; }
      words=(fnd call shop/) CURRENT=3; _fnd
      words=(fnd call '') CURRENT=3; _fnd
      words=(fnd deploy '') CURRENT=3; _fnd
      words=(fnd comple) CURRENT=2; _fnd`
    const { out, code } = await shell(['zsh', '-f', '-c', script])
    expect(code).toBe(0)
    const lines = out.split('\n').map(line => line.trimEnd())
    expect(lines[0]).toBe('_fnd')
    expect(lines[1]).toContain('shop/pay:')
    expect(lines[2]).toContain('blog/: shop/:')
    expect(lines[3]).toBe('files')
    expect(lines[4]).toStartWith('completion:print the script')
  })

  test('fish', async () => {
    const complete = async (line: string) => {
      const script = `fnd completion fish | source; complete -C '${line}'`
      const { out, code } = await shell(['fish', '--no-config', '-c', script])
      expect(code).toBe(0)
      return out.trimEnd().split('\n')
    }
    expect(await complete('fnd dep')).toEqual([
      'deploy\tupload code as a function and give it an address',
    ])
    expect((await complete('fnd call shop/'))[0]).toStartWith('shop/pay')
    expect(await complete('fnd deploy sou')).toEqual(['source.ts'])
  })
})
