/** Whom TLS trusts: Bun alone would trust only the list it was built with. */

let loaded: Promise<readonly string[]> | undefined

/**
 * The authorities of this machine (`SSL_CERT_FILE` and `SSL_CERT_DIR` move them), those that Bun
 * was built with, and those of `NODE_EXTRA_CA_CERTS`. Read once.
 */
export function rootCertificates(): Promise<readonly string[]> {
  loaded ??= read()
  return loaded
}

async function read(): Promise<readonly string[]> {
  // Loading it takes time that a start need not spend.
  const { getCACertificates } = await import('node:tls')
  return [...new Set([...getCACertificates('default'), ...getCACertificates('system')])]
}
