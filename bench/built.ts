/** An entry of the built package: what users run. Its type comes from the sources, which are there before any build. */
export async function built<Entry>(name: string): Promise<Entry> {
  // Not a literal: the bench is type-checked before anything is built.
  const entry = new URL(`../dist/${name}.js`, import.meta.url).href
  return import(entry).catch((error) => {
    throw error.code === 'ERR_MODULE_NOT_FOUND' ? new Error('the package is not built; run "npm run build"') : error
  })
}
