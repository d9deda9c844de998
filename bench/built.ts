/**
 * An entry of the built package: what users run. With BENCH_SOURCES set it is the sources, for tests of the bench. Its type
 * comes from the sources, which are there before any build.
 */
export async function built<Entry>(name: string): Promise<Entry> {
  const fromSources = Boolean(process.env.BENCH_SOURCES)
  // Not a literal: the bench is type-checked before anything is built.
  const entry = new URL(fromSources ? `../src/${name}.ts` : `../dist/${name}.js`, import.meta.url).href
  return import(entry).catch((error) => {
    throw error.code === 'ERR_MODULE_NOT_FOUND' ? new Error('the package is not built; run "npm run build"') : error
  })
}
