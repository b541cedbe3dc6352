/** Which bundles functions refer to: by images of the form `bundle:sha256-<hex>`. */
const prefix = 'bundle:'

/** Over any database that holds the state. */
export const imagesSql = `SELECT DISTINCT image FROM fns WHERE image GLOB '${prefix}*'`

/** Their hashes, sorted. */
export function referencedBundles(rows: readonly { readonly image?: unknown }[]): string[] {
  return rows.map(({ image }) => String(image).slice(prefix.length)).sort()
}
