import { defineConfig } from 'tsup'

export default defineConfig({
  entry: {
    index: 'src/index.ts',
    s3: 'src/s3.ts',
    tus: 'src/tus.ts',
    ietf: 'src/ietf.ts',
    resumablejs: 'src/resumablejs.ts',
    uppy: 'src/uppy.ts',
    testing: 'src/testing.ts',
  },
  format: ['esm', 'cjs'],
  dts: true,
  // Shared chunks: without them every CJS entry would carry its own copy of the engine and the errors.
  splitting: true,
  clean: true,
  target: 'node20',
  platform: 'node',
  sourcemap: true,
})
