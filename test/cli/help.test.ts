/**
 * docs/cli.md is what `--help` prints, for every command; the test keeps them the same.
 * FND_UPDATE_DOCS=1 writes it anew.
 */
import { describe, expect, test } from 'bun:test'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Command } from 'commander'
import { makeProgram } from '../../src/cli/program.ts'
import { Terminal } from '../../src/cli/terminal.ts'
import { runCli } from './run-cli.ts'

const page = join(import.meta.dir, '..', '..', 'docs', 'cli.md')
const program = makeProgram({ argv: [], env: {}, terminal: new Terminal() })

interface Entry {
  readonly words: string[]
  readonly command: Command
}

function commandsBelow(command: Command, words: string[]): Entry[] {
  const children = command.createHelp().visibleCommands(command)
  return [
    { words, command },
    ...children
      .filter(child => child.name() !== 'help')
      .flatMap(child => commandsBelow(child, [...words, child.name()])),
  ]
}

const all = commandsBelow(program, [])

function helpOf(command: Command): string {
  let text = ''
  command.configureOutput({
    writeOut: part => {
      text += part
    },
    getOutHelpWidth: () => 80,
    getOutHasColors: () => false,
  })
  command.outputHelp()
  return text.trimEnd()
}

describe('help', () => {
  for (const { words, command } of all) {
    test(`fnd ${words.join(' ')} has a description and examples`, () => {
      const text = helpOf(command)
      expect(command.description()).not.toBe('')
      expect(text).toContain('Examples:\n  ')
      const part = text.split('Examples:\n')[1]?.split('\n\n')[0]
      for (const example of part?.split('\n') ?? []) {
        expect(example).toMatch(/ {2}# \S/)
      }
    })
  }

  test('docs/cli.md says what the commands say', () => {
    const sections = all.map(({ words, command }) => {
      const title = ['fnd', ...words].join(' ')
      return `## ${title}\n\n\`\`\`text\n${helpOf(command)}\n\`\`\`\n`
    })
    const head = '# The command line\n\nThis is what `fnd --help` prints, for every command.\n'
    const text = [head, ...sections].join('\n')
    if (process.env.FND_UPDATE_DOCS === '1') writeFileSync(page, text)
    expect(readFileSync(page, 'utf8')).toBe(text)
  })

  test('--help goes to standard output and is no error', async () => {
    const result = await runCli(['deploy', '--help'])
    expect(result).toMatchObject({ exitCode: 0, stderr: '' })
    expect(result.stdout).toContain('Usage: fnd deploy [options] [file-or-dir]')
    expect((await runCli(['help', 'deploy'])).stdout).toBe(result.stdout)
  })

  test('--version prints version and commit', async () => {
    const result = await runCli(['--version'])
    expect(result).toMatchObject({ exitCode: 0, stderr: '' })
    expect(result.stdout).toMatch(/^fnd \d+\.\d+\.\d+ \(\S+\)\n$/)
  })
})
