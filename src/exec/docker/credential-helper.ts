/** Runs Docker's credential helpers, programs of the operator that keep secrets elsewhere. */
import { addressOf, type Credential, helperCredential } from './auth.ts'

/** A helper may ask a service; one that waits for a person must not hold calls up. */
const helperTimeoutMs = 10_000
const outputBytesMax = 64 * 1024

/**
 * The credential of `host` by `docker-credential-<name>`; undefined when the helper has none, is
 * missing, fails, or is late. `note` is told why, without what the helper printed.
 */
export async function askHelper(
  name: string,
  host: string,
  note: (reason: string) => void,
): Promise<Credential | undefined> {
  // A name is a part of a file name, not a path.
  const program = /^[\w.-]+$/.test(name) ? Bun.which(`docker-credential-${name}`) : null
  if (program === null) {
    note(`there is no program docker-credential-${name}`)
    return undefined
  }
  const child = Bun.spawn([program, 'get'], {
    stdin: Buffer.from(addressOf(host)),
    stdout: 'pipe',
    stderr: 'ignore',
    timeout: helperTimeoutMs,
    maxBuffer: outputBytesMax,
  })
  const [output, code] = await Promise.all([new Response(child.stdout).text(), child.exited])
  if (code === 0) return helperCredential(output)
  // The protocol's way to say that it knows nothing of this host.
  if (/credentials not found/i.test(output)) return undefined
  note(child.signalCode === null ? `it ended with code ${code}` : `it ended by ${child.signalCode}`)
  return undefined
}
