/** What `fnd doctor` can tell of this machine when no server runs. */
import { accessSync, constants, statfsSync } from 'node:fs'
import { availableParallelism, freemem, platform, tmpdir, totalmem } from 'node:os'
import type { Check } from './doctor.ts'

const mib = 1024 * 1024

export async function checkMachine(): Promise<Check[]> {
  return [checkPlatform(), checkMemory(), checkTemporary()]
}

function checkPlatform(): Check {
  const note = `${platform()} on ${process.arch}, ${availableParallelism()} cpus`
  return platform() === 'linux'
    ? { name: 'platform', status: 'ok', note }
    : {
        name: 'platform',
        status: 'warn',
        note,
        hint: 'functions are isolated on Linux only; use another system for development',
      }
}

function checkMemory(): Check {
  const note = `${Math.floor(freemem() / mib)} of ${Math.floor(totalmem() / mib)} MB free`
  return freemem() > 256 * mib
    ? { name: 'memory', status: 'ok', note }
    : { name: 'memory', status: 'warn', note, hint: 'free some, or give functions less memory' }
}

function checkTemporary(): Check {
  const dir = tmpdir()
  try {
    accessSync(dir, constants.W_OK)
  } catch (cause) {
    const note = `${dir}: ${(cause as Error).message}`
    return {
      name: 'temporary files',
      status: 'fail',
      note,
      hint: 'set TMPDIR to another directory',
    }
  }
  const stat = statfsSync(dir)
  const freeMb = Math.floor((stat.bavail * stat.bsize) / mib)
  const note = `${freeMb} MB free in ${dir}`
  return freeMb > 256
    ? { name: 'temporary files', status: 'ok', note }
    : { name: 'temporary files', status: 'warn', note, hint: 'make room, or set TMPDIR' }
}
