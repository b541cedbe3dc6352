/** The systemd units that are shipped beside the executable. */
import { expect, test } from 'bun:test'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const packaging = join(import.meta.dir, '../../packaging')
const unit = readFileSync(join(packaging, 'fnd.service'), 'utf8')

function settingsOf(name: string): string[] {
  return [...unit.matchAll(new RegExp(`^${name}=(.*)$`, 'gm'))].map(([, value = '']) => value)
}

const names = ['fnd.service', 'fnd-backup.service', 'fnd-backup.timer']

test.each(names)('systemd finds no fault in %s', async name => {
  const tool = Bun.which('systemd-analyze')
  if (tool === null) {
    console.log('systemd-analyze is not installed: the unit is not verified here')
    return
  }
  const folder = mkdtempSync(join(tmpdir(), 'fnd-unit-'))
  try {
    const path = join(folder, name)
    for (const each of names) {
      // The verifier asks for an executable that exists on this machine.
      const text = readFileSync(join(packaging, each), 'utf8')
      writeFileSync(
        join(folder, each),
        text.replace(/^ExecStart=\/usr\S+/m, `ExecStart=${process.execPath}`),
      )
    }
    const child = Bun.spawn([tool, 'verify', '--man=no', path], { stdout: 'pipe', stderr: 'pipe' })
    const [code, text] = await Promise.all([child.exited, new Response(child.stderr).text()])
    expect({ code, faults: text.split('\n').filter(line => line.includes('fnd')) }).toEqual({
      code: 0,
      faults: [],
    })
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})

test('the unit lets fnd do what the sandbox needs', () => {
  expect(settingsOf('Delegate')).toEqual(['yes'])
  expect(settingsOf('CapabilityBoundingSet').join(' ')).toContain('CAP_SYS_ADMIN')
  for (const name of ['RestrictNamespaces', 'MemoryDenyWriteExecute', 'ProtectControlGroups']) {
    expect(settingsOf(name)).toEqual([])
  }
})

test('the unit waits longer for an end than fnd does for running calls', () => {
  const page = readFileSync(join(import.meta.dir, '../../docs/configuration.md'), 'utf8')
  const drainS = Number(/FND_DRAIN_TIMEOUT.*?`(\d+)s`/.exec(page)?.[1])
  expect(Number(settingsOf('TimeoutStopSec')[0])).toBeGreaterThan(drainS)
})

test('the backup unit keeps the last seven', () => {
  const backup = readFileSync(join(packaging, 'fnd-backup.service'), 'utf8')
  const line = /^ExecStartPost=\/bin\/sh -c '(.*)'$/m.exec(backup)?.[1] ?? ''
  const folder = mkdtempSync(join(tmpdir(), 'fnd-backups-'))
  try {
    const kept = Array.from({ length: 9 }, (_, at) => `fnd-2026010${at + 1}T030000Z.backup`)
    for (const name of [...kept, 'other', 'fnd-x.backup.part'])
      writeFileSync(join(folder, name), '')
    const command = line.replaceAll('$$', '$').replace('/var/backups/fnd', folder)
    expect(Bun.spawnSync(['/bin/sh', '-c', command]).exitCode).toBe(0)
    expect(readdirSync(folder).sort()).toEqual(
      [...kept.slice(2), 'fnd-x.backup.part', 'other'].sort(),
    )
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})
